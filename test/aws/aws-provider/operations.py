"""What the stand-in for Pulumi's AWS provider does, through the AWS SDK: a request a line on stdin, an answer a line.

Requests are {"verb", "type", "id", "inputs", "outputs"} with the type as in Instance. An answer has `outputs` (null where
the thing is gone), or `error`. What moto does not know comes from the file RETUNE_AWS_CONTROL.
"""

import contextlib
import json
import os
import random
import signal
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, NoCredentialsError

GONE = ("NotFound", "NoSuch", "ResourceNotFound", "404")


def control() -> dict:
    with open(os.environ["RETUNE_AWS_CONTROL"]) as file:
        return json.load(file)


def client(service: str):
    if region not in boto3.Session().get_available_regions("ec2"):  # moto has every region that it is asked for
        host = f"{service}.{region}.amazonaws.com"
        raise RuntimeError(f'request send failed, Post "https://{host}/": dial tcp: lookup {host}: no such host')
    return boto3.client(service, region_name=region, config=Config(retries={"total_max_attempts": 1}))


def pairs(tags: dict) -> list:
    return [{"Key": key, "Value": value} for key, value in (tags or {}).items()]


def boot(user_data: str) -> None:
    """What cloud-init does, as far as a loopback sshd can have it done: the host gets the key that it was given."""
    machine = json.loads(os.environ["RETUNE_AWS_MACHINE"])
    first, config = user_data.split("\n", 1)
    assert first == "#cloud-config", first
    with open(machine["hostKey"], "w") as file:
        file.write(json.loads(config)["ssh_keys"]["ed25519_private"])
    os.kill(machine["pid"], signal.SIGHUP)


def power_off() -> None:
    """What terminating a machine does to all that runs on it: behind the loopback sshd, which alone stays, that is its mounts."""
    sshd = json.loads(os.environ["RETUNE_AWS_MACHINE"])["pid"]

    def mounts(pid) -> str:
        try:
            return os.readlink(f"/proc/{pid}/ns/mnt")
        except OSError:  # it has ended
            return ""

    assert mounts(sshd) not in ("", mounts("self")), "the machine is not a machine of its own"
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
        if pid != sshd and mounts(pid) == mounts(sshd):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Bucket:
    @staticmethod
    def create(inputs):
        name = inputs.get("bucket") or inputs["bucketPrefix"] + "%012x" % random.getrandbits(48)
        if control().get("taken", False):
            raise RuntimeError(
                f"creating S3 Bucket ({name}): operation error S3: CreateBucket, https response error StatusCode: 409, BucketAlreadyExists: "
            )
        client("s3").create_bucket(Bucket=name)
        return name, Bucket.update(name, inputs)

    @staticmethod
    def update(name, inputs):
        client("s3").put_bucket_tagging(Bucket=name, Tagging={"TagSet": pairs(inputs.get("tags"))})
        return {"bucket": name, "arn": f"arn:aws:s3:::{name}"}

    @staticmethod
    def read(name, _inputs):
        client("s3").head_bucket(Bucket=name)

    @staticmethod
    def delete(name, inputs):
        s3 = client("s3")
        if inputs.get("forceDestroy"):
            listed = s3.list_object_versions(Bucket=name)
            for one in listed.get("Versions", []) + listed.get("DeleteMarkers", []):
                s3.delete_object(Bucket=name, Key=one["Key"], VersionId=one["VersionId"])
        s3.delete_bucket(Bucket=name)


class OfBucket:
    """A setting of a bucket: it goes with it."""

    @classmethod
    def create(cls, inputs):
        return inputs["bucket"], cls.update(inputs["bucket"], inputs)

    @staticmethod
    def read(name, _inputs):
        client("s3").head_bucket(Bucket=name)

    @staticmethod
    def delete(_name, _inputs):
        pass


class BucketVersioning(OfBucket):
    @staticmethod
    def update(name, inputs):
        status = {"Status": inputs["versioningConfiguration"]["status"]}
        client("s3").put_bucket_versioning(Bucket=name, VersioningConfiguration=status)
        return {}


class BucketServerSideEncryptionConfiguration(OfBucket):
    @staticmethod
    def update(name, inputs):
        algorithms = [rule["applyServerSideEncryptionByDefault"]["sseAlgorithm"] for rule in inputs["rules"]]
        rules = [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": one}} for one in algorithms]
        client("s3").put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": rules})
        return {}


class BucketPublicAccessBlock(OfBucket):
    @staticmethod
    def update(name, inputs):
        names = ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets")
        settings = {one[0].upper() + one[1:]: inputs[one] for one in names}
        client("s3").put_public_access_block(Bucket=name, PublicAccessBlockConfiguration=settings)
        return {}


class BucketLifecycleConfiguration(OfBucket):
    @staticmethod
    def update(name, inputs):
        rules = [
            {
                "ID": rule["id"],
                "Status": rule["status"],
                "Filter": {"Prefix": rule["filter"]["prefix"]},
                "NoncurrentVersionExpiration": {
                    "NoncurrentDays": rule["noncurrentVersionExpiration"]["noncurrentDays"]
                },
                **(
                    {"AbortIncompleteMultipartUpload": {"DaysAfterInitiation": abort["daysAfterInitiation"]}}
                    if (abort := rule.get("abortIncompleteMultipartUpload"))
                    else {}
                ),
                **({"Expiration": {"Days": rule["expiration"]["days"]}} if "expiration" in rule else {}),
            }
            for rule in inputs["rules"]
        ]
        client("s3").put_bucket_lifecycle_configuration(Bucket=name, LifecycleConfiguration={"Rules": rules})
        return {}


class Role:
    @staticmethod
    def create(inputs):
        role = client("iam").create_role(
            RoleName=inputs["name"],
            AssumeRolePolicyDocument=inputs["assumeRolePolicy"],
            Tags=pairs(inputs.get("tags")),
        )["Role"]
        return inputs["name"], {"arn": role["Arn"], "name": inputs["name"]}

    @staticmethod
    def update(name, inputs):
        client("iam").tag_role(RoleName=name, Tags=pairs(inputs.get("tags")))
        return {}

    @staticmethod
    def read(name, _inputs):
        client("iam").get_role(RoleName=name)

    @staticmethod
    def delete(name, _inputs):
        client("iam").delete_role(RoleName=name)


class RolePolicy:
    @staticmethod
    def create(inputs):
        return f"{inputs['role']}:{inputs['name']}", RolePolicy.update(None, inputs)

    @staticmethod
    def update(_id, inputs):
        client("iam").put_role_policy(
            RoleName=inputs["role"], PolicyName=inputs["name"], PolicyDocument=inputs["policy"]
        )
        return {}

    @staticmethod
    def read(_id, inputs):
        client("iam").get_role_policy(RoleName=inputs["role"], PolicyName=inputs["name"])

    @staticmethod
    def delete(_id, inputs):
        client("iam").delete_role_policy(RoleName=inputs["role"], PolicyName=inputs["name"])


class RolePolicyAttachment:
    """AWS's own policies are not in moto: what is attached is remembered by the state alone."""

    @staticmethod
    def create(inputs):
        return f"{inputs['role']}/{inputs['policyArn']}", {}

    @staticmethod
    def read(_id, inputs):
        client("iam").get_role(RoleName=inputs["role"])

    @staticmethod
    def delete(_id, _inputs):
        pass


class InstanceProfile:
    @staticmethod
    def create(inputs):
        iam = client("iam")
        iam.create_instance_profile(InstanceProfileName=inputs["name"], Tags=pairs(inputs.get("tags")))
        iam.add_role_to_instance_profile(InstanceProfileName=inputs["name"], RoleName=inputs["role"])
        return inputs["name"], {"name": inputs["name"]}

    @staticmethod
    def update(name, inputs):
        client("iam").tag_instance_profile(InstanceProfileName=name, Tags=pairs(inputs.get("tags")))
        return {}

    @staticmethod
    def read(name, _inputs):
        client("iam").get_instance_profile(InstanceProfileName=name)

    @staticmethod
    def delete(name, inputs):
        iam = client("iam")
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=inputs["role"])
        iam.delete_instance_profile(InstanceProfileName=name)


class KeyPair:
    @staticmethod
    def create(inputs):
        specification = [{"ResourceType": "key-pair", "Tags": pairs(inputs.get("tags"))}]
        client("ec2").import_key_pair(
            KeyName=inputs["keyName"],
            PublicKeyMaterial=inputs["publicKey"].encode(),
            TagSpecifications=specification,
        )
        return inputs["keyName"], {"keyName": inputs["keyName"]}

    @staticmethod
    def update(_id, _inputs):
        return {}

    @staticmethod
    def read(name, _inputs):
        client("ec2").describe_key_pairs(KeyNames=[name])

    @staticmethod
    def delete(name, _inputs):
        client("ec2").delete_key_pair(KeyName=name)


class SecurityGroup:
    @staticmethod
    def create(inputs):
        ec2 = client("ec2")
        specification = [{"ResourceType": "security-group", "Tags": pairs(inputs.get("tags"))}]
        group = ec2.create_security_group(
            GroupName=inputs["name"], Description=inputs["description"], TagSpecifications=specification
        )["GroupId"]
        for rule in inputs["ingress"]:
            ec2.authorize_security_group_ingress(
                GroupId=group,
                IpPermissions=[
                    {
                        "IpProtocol": rule["protocol"],
                        "FromPort": int(rule["fromPort"]),
                        "ToPort": int(rule["toPort"]),
                        "IpRanges": [{"CidrIp": one} for one in rule["cidrBlocks"]],
                    }
                ],
            )
        return group, {}

    @staticmethod
    def update(group, inputs):
        client("ec2").create_tags(Resources=[group], Tags=pairs(inputs.get("tags")))
        return {}

    @staticmethod
    def read(group, _inputs):
        client("ec2").describe_security_groups(GroupIds=[group])

    @staticmethod
    def delete(group, _inputs):
        client("ec2").delete_security_group(GroupId=group)


class Instance:
    @staticmethod
    def create(inputs):
        if control().get("expired", False):
            raise RuntimeError(
                "creating EC2 Instance: operation error EC2: RunInstances, api error RequestExpired: Request has expired."
            )
        if not control().get("capacity", True):
            raise RuntimeError(
                f"creating EC2 Instance: InsufficientInstanceCapacity: We currently do not have sufficient "
                f"{inputs['instanceType']} capacity in the Availability Zone you requested ({inputs['availabilityZone']})."
            )
        disk, metadata = inputs["rootBlockDevice"], inputs["metadataOptions"]
        market = inputs.get("instanceMarketOptions")
        instance = client("ec2").run_instances(
            ImageId=inputs["ami"],
            InstanceType=inputs["instanceType"],
            Placement={"AvailabilityZone": inputs["availabilityZone"]},
            KeyName=inputs["keyName"],
            SecurityGroupIds=inputs["vpcSecurityGroupIds"],
            IamInstanceProfile={"Name": inputs["iamInstanceProfile"]},
            InstanceInitiatedShutdownBehavior=inputs["instanceInitiatedShutdownBehavior"],
            MetadataOptions={
                "HttpEndpoint": metadata["httpEndpoint"],
                "HttpTokens": metadata["httpTokens"],
                "HttpPutResponseHopLimit": int(metadata["httpPutResponseHopLimit"]),
            },
            BlockDeviceMappings=[
                {
                    "DeviceName": "/dev/sda1",
                    "Ebs": {
                        "VolumeType": disk["volumeType"],
                        "VolumeSize": int(disk["volumeSize"]),
                        "Encrypted": disk["encrypted"],
                        "DeleteOnTermination": disk["deleteOnTermination"],
                    },
                }
            ],
            UserData=inputs["userData"],
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": pairs(inputs.get("tags"))},
                {"ResourceType": "volume", "Tags": pairs(inputs.get("volumeTags"))},
            ],
            MinCount=1,
            MaxCount=1,
            **({"InstanceMarketOptions": {"MarketType": market["marketType"]}} if market else {}),
        )["Instances"][0]
        name = instance["InstanceId"]
        boot(inputs["userData"])
        return name, {"arn": f"arn:aws:ec2:{region}:123456789012:instance/{name}"}

    @staticmethod
    def update(name, inputs):
        client("ec2").create_tags(Resources=[name], Tags=pairs(inputs.get("tags")))
        return {}

    @staticmethod
    def read(name, _inputs):
        found = client("ec2").describe_instances(InstanceIds=[name])["Reservations"][0]["Instances"][0]
        if found["State"]["Name"] == "terminated":
            raise LookupError

    @staticmethod
    def delete(name, _inputs):
        client("ec2").terminate_instances(InstanceIds=[name])
        power_off()


class Schedule:
    @staticmethod
    def create(inputs):
        target = inputs["target"]
        client("scheduler").create_schedule(
            Name=inputs["name"],
            ScheduleExpression=inputs["scheduleExpression"],
            StartDate=inputs["startDate"],
            FlexibleTimeWindow={"Mode": inputs["flexibleTimeWindow"]["mode"]},
            Target={"Arn": target["arn"], "RoleArn": target["roleArn"], "Input": target["input"]},
        )
        return f"default/{inputs['name']}", {}

    @staticmethod
    def update(_id, inputs):
        target = inputs["target"]
        client("scheduler").update_schedule(
            Name=inputs["name"],
            ScheduleExpression=inputs["scheduleExpression"],
            StartDate=inputs["startDate"],
            FlexibleTimeWindow={"Mode": inputs["flexibleTimeWindow"]["mode"]},
            Target={"Arn": target["arn"], "RoleArn": target["roleArn"], "Input": target["input"]},
        )
        return {}

    @staticmethod
    def read(_id, inputs):
        client("scheduler").get_schedule(Name=inputs["name"])

    @staticmethod
    def delete(_id, inputs):
        client("scheduler").delete_schedule(Name=inputs["name"])


def invoke(function: str, args: dict) -> dict:
    match function:
        case "getParameter":
            value = client("ssm").get_parameter(Name=args["name"])["Parameter"]["Value"]
            return {"name": args["name"], "insecureValue": value, "value": value}
        case "getInstanceTypeOfferings":
            filters = [{"Name": one["name"], "Values": one["values"]} for one in args["filters"]]
            found = client("ec2").describe_instance_type_offerings(LocationType=args["locationType"], Filters=filters)
            return {"locations": [one["Location"] for one in found["InstanceTypeOfferings"]]}
        case "getServiceQuota":  # moto knows those of VPCs only
            return {"value": control()["quota"]}
    raise RuntimeError(f"the stand-in does not know {function}")


def act(request: dict):
    verb, inputs = request["verb"], request["inputs"]
    if verb == "invoke":
        return {"outputs": invoke(request["type"], inputs)}
    kind = globals()[request["type"]]
    match verb:
        case "create":
            name, more = kind.create(inputs)
            return {"id": name, "outputs": {**inputs, **more}}
        case "update":
            return {"outputs": {**request["outputs"], **inputs, **kind.update(request["id"], inputs)}}
        case "read":
            kind.read(request["id"], inputs)
            return {"outputs": request["outputs"]}
        case "delete":
            kind.delete(request["id"], inputs)
            return {"outputs": {}}


region = "us-east-1"
for line in sys.stdin:
    request = json.loads(line)
    region = request.get("region") or region
    try:
        answer = act(request)
    except NoCredentialsError:
        answer = {"error": "No valid credential sources found"}
    except (ClientError, LookupError) as error:
        code = error.response["Error"]["Code"] if isinstance(error, ClientError) else "NotFound"
        missing = any(word in code for word in GONE)
        gone = missing and request["verb"] in ("read", "delete")
        answer = {"outputs": None} if gone else {"error": str(error)}
    except RuntimeError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
