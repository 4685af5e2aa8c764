"""An AWS account for tests: moto on loopback. The argument is a file for its port; it ends with its stdin.

Each line of stdin is a public parameter of Systems Manager that nobody but AWS can write: {"name": …, "value": …}, the
value null to take it away. Each is answered with a line.
"""

import json
import os
import sys

from moto.core.utils import utcnow
from moto.server import ThreadedMotoServer
from moto.ssm.models import Parameter, ssm_backends

ACCOUNT = "123456789012"

server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
port_file = sys.argv[1]
with open(f"{port_file}.new", "w") as file:
    file.write(str(server.get_host_and_port()[1]))
os.replace(f"{port_file}.new", port_file)

for line in sys.stdin:
    wanted = json.loads(line)
    name, value = wanted["name"], wanted["value"]
    parameters = ssm_backends[ACCOUNT]["us-east-1"]._parameters
    parameters.pop(name, None)
    if value is not None:
        parameters[name].append(
            Parameter(
                account_id=ACCOUNT,
                name=name,
                value=value,
                parameter_type="String",
                description="",
                allowed_pattern=None,
                keyid=None,
                last_modified_date=utcnow().timestamp(),
                version=1,
                data_type="aws:ec2:image",
                labels=[],
                source_result=None,
                tier=None,
                policies=None,
            )
        )
    print("done", flush=True)
