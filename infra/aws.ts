import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { Instance } from "@pulumi/aws/ec2/instance.js";
import { getInstanceTypeOfferings } from "@pulumi/aws/ec2/getInstanceTypeOfferings.js";
import { KeyPair } from "@pulumi/aws/ec2/keyPair.js";
import { SecurityGroup } from "@pulumi/aws/ec2/securityGroup.js";
import { InstanceProfile } from "@pulumi/aws/iam/instanceProfile.js";
import { Role } from "@pulumi/aws/iam/role.js";
import { RolePolicy } from "@pulumi/aws/iam/rolePolicy.js";
import { RolePolicyAttachment } from "@pulumi/aws/iam/rolePolicyAttachment.js";
import { Provider } from "@pulumi/aws/provider.js";
import { Bucket } from "@pulumi/aws/s3/bucket.js";
import { BucketLifecycleConfiguration } from "@pulumi/aws/s3/bucketLifecycleConfiguration.js";
import { BucketPublicAccessBlock } from "@pulumi/aws/s3/bucketPublicAccessBlock.js";
import { BucketServerSideEncryptionConfiguration } from "@pulumi/aws/s3/bucketServerSideEncryptionConfiguration.js";
import { BucketVersioning } from "@pulumi/aws/s3/bucketVersioning.js";
import { Schedule } from "@pulumi/aws/scheduler/schedule.js";
import { getServiceQuota } from "@pulumi/aws/servicequotas/getServiceQuota.js";
import { getParameter } from "@pulumi/aws/ssm/getParameter.js";
import type { Output, Resource, ResourceHookArgs } from "@pulumi/pulumi";
import { ResourceHook } from "@pulumi/pulumi/resource.js";
import { all } from "@pulumi/pulumi/output.js";
import { s3Remote } from "../pipeline/store/mirror";
import { UserError } from "../pipeline/user-error";
import { imageParameter, instanceTypeOf, quotaOf } from "./aws/offers";
import { HostKey, Offer, type Found } from "./aws/offer";
import { userData } from "./aws/user-data";
import { Host, type Needs } from "./host/host";
import { meter } from "./host/prepare";
import { preparation } from "./ssh";
import type { AwsTarget, SshTarget } from "./target";

/** Where below the bucket the store's mirror is: the machine may go nowhere else. */
const PREFIX = "retune";
/** Where the copies of checkpoints of a spot machine are, and for how many days they wait for their run to go on. */
const CHECKPOINTS = `${PREFIX}/checkpoints`;
const RESUMABLE = 30;
/** Days for which an artifact that was overwritten or deleted can be had back. */
const RECOVERABLE = 30;

/**
 * A machine of AWS as a target, from an empty account: what is offered is looked at first, then there are a bucket for
 * the models, a network without an open door, the machine, and a clock outside of it that stops it for good. From there
 * on it is a host that is reached by SSH, and one that sleeps when nothing runs.
 */
export function awsTarget(target: AwsTarget, stack: string, needs: Needs): Output<SshTarget> {
    const { region, instanceType, spot, access } = target;
    const pricePerHour = target.pricePerHour ?? instanceTypeOf(instanceType).price;
    const publicKey = readPublicKey(target.identity);
    const provider = new Provider("aws", { region });

    const offer = new Offer("offer", {
        instanceType,
        region,
        zone: target.zone,
        spot,
        precision: needs.precision,
        gpu: target.gpu,
        pricePerHour,
        deadline: target.deadline,
        disk: target.disk,
        idleMinutes: target.idleMinutes,
        budget: target.budget,
        runCost: target.limits?.cost,
        runHours: target.limits?.hours,
        image: target.image,
        system: target.system,
        publicKey,
        found: lookAround(target, provider),
    });

    // Nothing is made before the offer holds.
    const made = { provider, dependsOn: [offer] as Resource[] };
    const tags = offer.until.apply((deadline) => ({ stack, owner: target.owner, deadline, program: "retune" }));
    const name = `retune-${stack}`;

    const bucket = new Bucket(
        "models",
        { bucketPrefix: bucketPrefixOf(name), forceDestroy: !target.keepModels, tags },
        { ...made, retainOnDelete: target.keepModels },
    );
    const ofBucket = { bucket: bucket.bucket };
    const inBucket = { ...made, parent: bucket, retainOnDelete: target.keepModels };
    const versions = new BucketVersioning(
        "models-versions",
        { ...ofBucket, versioningConfiguration: { status: "Enabled" } },
        inBucket,
    );
    new BucketServerSideEncryptionConfiguration(
        "models-encryption",
        { ...ofBucket, rules: [{ applyServerSideEncryptionByDefault: { sseAlgorithm: "AES256" } }] },
        inBucket,
    );
    new BucketPublicAccessBlock(
        "models-private",
        {
            ...ofBucket,
            blockPublicAcls: true,
            blockPublicPolicy: true,
            ignorePublicAcls: true,
            restrictPublicBuckets: true,
        },
        inBucket,
    );
    new BucketLifecycleConfiguration(
        "models-lifecycle",
        {
            ...ofBucket,
            rules: [
                {
                    id: "leftovers",
                    status: "Enabled",
                    filter: { prefix: "" },
                    abortIncompleteMultipartUpload: { daysAfterInitiation: 7 },
                    noncurrentVersionExpiration: { noncurrentDays: RECOVERABLE },
                },
                {
                    id: "checkpoints",
                    status: "Enabled",
                    filter: { prefix: `${CHECKPOINTS}/` },
                    expiration: { days: RESUMABLE },
                    noncurrentVersionExpiration: { noncurrentDays: 1 },
                },
            ],
        },
        { ...inBucket, dependsOn: [offer, versions] },
    );

    const role = new Role("machine-role", { assumeRolePolicy: trusting("ec2.amazonaws.com"), tags }, made);
    const rights: Resource[] = [
        new RolePolicy("machine-models", { role: role.id, policy: bucket.arn.apply(onlyBelowPrefix) }, made),
    ];
    if (access === "ssm") {
        const policyArn = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore";
        rights.push(new RolePolicyAttachment("machine-session", { role: role.name, policyArn }, made));
    }
    const profile = new InstanceProfile("machine-profile", { role: role.name, tags }, made);

    const anywhere = { protocol: "-1", fromPort: 0, toPort: 0, cidrBlocks: ["0.0.0.0/0"] };
    const network = new SecurityGroup(
        "machine-network",
        {
            description: `Retune, stack ${stack}`,
            ingress:
                access === "key"
                    ? [{ protocol: "tcp", fromPort: 22, toPort: 22, cidrBlocks: [...(target.from ?? [])] }]
                    : [],
            egress: [anywhere],
            tags,
        },
        made,
    );
    const login = new KeyPair("client-key", { publicKey, tags }, made);
    const hostKey = new HostKey("host-key");

    const machine = new Instance(
        "machine",
        {
            ami: offer.image,
            instanceType,
            availabilityZone: offer.zone,
            keyName: login.keyName,
            vpcSecurityGroupIds: [network.id],
            iamInstanceProfile: profile.name,
            // By the machine itself: it sleeps, and its disk stays.
            instanceInitiatedShutdownBehavior: "stop",
            metadataOptions: { httpEndpoint: "enabled", httpTokens: "required", httpPutResponseHopLimit: 1 },
            rootBlockDevice: { volumeType: "gp3", volumeSize: target.disk, encrypted: true, deleteOnTermination: true },
            userData: all([hostKey.privateKey, hostKey.publicKey]).apply(([privateKey, known]) =>
                // rclone is what copies the checkpoints.
                userData({ privateKey, publicKey: known }, spot ? ["rclone"] : []),
            ),
            ...(spot
                ? {
                      instanceMarketOptions: {
                          marketType: "spot",
                          // One that AWS takes away is stopped, and can be started again with all that is on its disk.
                          spotOptions: { spotInstanceType: "persistent", instanceInterruptionBehavior: "stop" },
                      },
                  }
                : {}),
            tags: tags.apply((common) => ({ ...common, Name: name })),
            volumeTags: tags,
        },
        {
            ...made,
            dependsOn: [offer, ...rights],
            // cloud-init reads it once.
            ignoreChanges: ["userData"],
            // AWS could change it in place; but another GPU wants another driver.
            replaceOnChanges: ["instanceType"],
            // Two at once may be more than the quota allows.
            deleteBeforeReplace: true,
            hooks: { beforeCreate: [new ResourceHook("deadline", refuseAfterDeadline, { onDryRun: true })] },
        },
    );

    const clock = new Role("deadline-role", { assumeRolePolicy: trusting("scheduler.amazonaws.com"), tags }, made);
    const mayStop = new RolePolicy(
        "deadline-stop",
        { role: clock.id, policy: machine.arn.apply((arn) => allow(["ec2:StopInstances"], [arn])) },
        made,
    );
    new Schedule(
        "deadline",
        {
            description: `Stops the machine of Retune's stack ${stack} from its deadline on`,
            // Every hour: also what is started after it does not stay.
            scheduleExpression: "rate(1 hours)",
            startDate: offer.until,
            flexibleTimeWindow: { mode: "OFF" },
            target: {
                arn: "arn:aws:scheduler:::aws-sdk:ec2:stopInstances",
                roleArn: clock.arn,
                input: machine.id.apply((id) => JSON.stringify({ InstanceIds: [id] })),
                retryPolicy: { maximumRetryAttempts: 10, maximumEventAgeInSeconds: 3600 },
            },
        },
        { ...made, dependsOn: [offer, mayStop] },
    );

    const { type: _type, from: _from, limits, python, home, gpu, driver, cudaToolkit, mirrors } = target;
    const reached = all([machine.id, hostKey.publicKey, bucket.bucket, offer.until]).apply(
        ([id, known, models, until]): SshTarget =>
            withoutUndefined({
                type: "ssh" as const,
                host: id,
                port: 22,
                user: target.user,
                hostKey: known,
                identity: absolute(target.identity),
                home,
                python,
                gpu,
                driver,
                cudaToolkit,
                mirrors,
                instance: withoutUndefined({
                    ...{ region, access, stack, until, budget: target.budget },
                    checkpoints: spot ? `${models}/${CHECKPOINTS}` : undefined,
                }),
                pricePerHour,
                limits,
                mirror: target.mirror ?? s3Remote(`${models}/${PREFIX}`, region),
            }),
    );
    // The first thing that is done there: from then on it is the meter that keeps the machine from being powered off.
    const ticking = meter(
        { target: reached },
        { home, idleMinutes: target.idleMinutes, pricePerHour, budget: target.budget },
    );
    const wanted = { target: reached, ...needs };
    const prepared =
        python === undefined
            ? preparation(target, { target: reached }, wanted, { dependsOn: [ticking] })
            : ticking.stdout;
    return new Host("host", { ...wanted, prepared }).target;
}

/**
 * What AWS has for the stack, asked through its provider. What cannot be answered is a problem of the offer, which is told
 * only where something would be made: an update with nothing to do needs nothing of AWS.
 */
async function lookAround(target: AwsTarget, provider: Provider): Promise<Found> {
    const { instanceType, spot, system } = target;
    const filters = [{ name: "instance-type", values: [instanceType] }];
    const { code } = quotaOf(instanceType, spot);
    // Each has its place, so that the first in order is told, not the one that failed first.
    const unanswered: string[][] = [];
    const answered = async <Answer, Value>(
        asking: Promise<Answer>,
        what: string,
        read: (answer: Answer) => Value,
    ): Promise<Value | undefined> => {
        const place: string[] = [];
        unanswered.push(place);
        try {
            return read(await asking);
        } catch (error) {
            place.push(`${what}: ${(error as Error).message}`);
            return undefined;
        }
    };
    const [zones, quota, newest] = await Promise.all([
        answered(
            getInstanceTypeOfferings({ locationType: "availability-zone", filters }, { provider }),
            "which zones have the instance type",
            ({ locations }) => locations,
        ),
        answered(
            getServiceQuota({ serviceCode: "ec2", quotaCode: code }, { provider }),
            "what the account's quota is",
            ({ value }) => value,
        ),
        answered(
            getParameter({ name: imageParameter(system) }, { provider }),
            `which image is the newest of ${system}`,
            ({ insecureValue }) => insecureValue,
        ),
    ]);
    return withoutUndefined({ zones, quota, newest, problems: unanswered.flat() });
}

/**
 * Only the engine knows that a machine is to be made although nothing has changed: somebody has terminated it, or there was
 * none to be had. After the deadline no clock of AWS would stop it.
 */
function refuseAfterDeadline({ newInputs }: ResourceHookArgs): void {
    const { deadline = "" } = (newInputs?.["tags"] ?? {}) as { readonly deadline?: string };
    if (!(Date.parse(deadline) <= Date.now())) return;
    throw new UserError(
        `no machine is made: the deadline was ${deadline}. Another target.deadline, such as \`--set target.deadline=8\`, counts from now`,
    );
}

/** The provider adds 26 characters, another name each time: S3 takes 63 of these, and of all AWS no two the same. */
function bucketPrefixOf(name: string): string {
    return `${name
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, "-")
        .slice(0, 36)}-`;
}

/** The public part beside the private key. It is given to AWS; the private one goes nowhere. */
function readPublicKey(identity: string): string {
    const file = `${absolute(identity)}.pub`;
    try {
        return fs.readFileSync(file, "utf8").trim();
    } catch {
        throw new UserError(
            `target.identity: there is no ${file}: \`ssh-keygen -t ed25519\` makes a key pair, or name another private key whose .pub is beside it`,
        );
    }
}

function absolute(identity: string): string {
    return identity.replace(/^~(?=\/)/, os.homedir()).replace(/^(?!\/)/, `${path.resolve()}/`);
}

function trusting(service: string): string {
    const trust = { Effect: "Allow", Principal: { Service: service }, Action: "sts:AssumeRole" };
    return JSON.stringify({ Version: "2012-10-17", Statement: [trust] });
}

function allow(actions: readonly string[], resources: readonly string[]): string {
    const statement = { Effect: "Allow", Action: actions, Resource: resources };
    return JSON.stringify({ Version: "2012-10-17", Statement: [statement] });
}

function onlyBelowPrefix(bucket: string): string {
    const list = {
        Effect: "Allow",
        Action: ["s3:ListBucket"],
        Resource: [bucket],
        Condition: { StringLike: { "s3:prefix": [`${PREFIX}/*`] } },
    };
    const objects = {
        Effect: "Allow",
        Action: ["s3:GetObject", "s3:PutObject"],
        Resource: [`${bucket}/${PREFIX}/*`],
    };
    return JSON.stringify({ Version: "2012-10-17", Statement: [list, objects] });
}

type Defined<Fields> = { [Name in keyof Fields]: Exclude<Fields[Name], undefined> };

function withoutUndefined<Fields extends object>(fields: Fields): Defined<Fields> {
    return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as Defined<Fields>;
}
