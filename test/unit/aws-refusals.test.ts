import { describe, expect, test } from "vitest";
import { meaningOf } from "../../infra/aws/refusals";
import { Outcomes } from "../../scripts/outcome";

/** Words of Pulumi's provider, of the command line and of the SDK for Python, and how their meaning begins. */
const SAID: readonly (readonly [words: string, meaning: string])[] = [
    ["api error RequestExpired: Request has expired.", "the AWS credentials have expired: log in again"],
    [
        "An error occurred (ExpiredToken) when calling the DescribeInstances operation: the security token has expired",
        "the AWS credentials have expired: log in again",
    ],
    ["The security token included in the request is expired", "the AWS credentials have expired: log in again"],
    ["Error when retrieving token from sso: Token has expired", "the AWS credentials have expired: log in again"],
    ["the SSO session has expired or is invalid", "the AWS credentials have expired: log in again"],
    ["No valid credential sources found", "there are no AWS credentials: `aws configure` or AWS_PROFILE"],
    ["The config profile (work) could not be found", "there are no AWS credentials: `aws configure` or AWS_PROFILE"],
    [
        "dial tcp: lookup sts.us-east-9.amazonaws.com: no such host",
        "target.region: AWS does not answer there: `aws ec2 describe-regions",
    ],
    [
        'Could not connect to the endpoint URL: "https://ec2.us-east-9.amazonaws.com/"',
        "target.region: AWS does not answer there: `aws ec2 describe-regions",
    ],
    [
        "InvalidClientTokenId: The security token included in the request is invalid",
        "AWS does not take these credentials there: `aws sts get-caller-identity` shows whether they are good; then target.region is one that the account has not enabled",
    ],
    ["OptInRequired: You are not subscribed to this service", "AWS does not take these credentials there"],
    ["An error occurred (InsufficientInstanceCapacity)", "AWS has no such machine free now: try again later"],
    ["VcpuLimitExceeded: You have requested more vCPU capacity", "the account's quota is used up by other machines"],
    ["BucketAlreadyExists: ", "a bucket of this name is somebody's already"],
    ["TooManyBuckets: You have attempted to create more buckets", "the account has as many buckets as it may"],
    ["UnauthorizedOperation: You are not authorized", "who is logged in may not do this"],
    ["ParameterNotFound", "target.system: AWS names no image of it there"],
    ["reading SSM Parameter (/aws/x): couldn't find resource", "target.system: AWS names no image of it there"],
];

describe("what AWS says", () => {
    test.each(SAID)("%s", (words, meaning) => {
        expect(meaningOf(words)?.slice(0, meaning.length)).toBe(meaning);
    });

    test("in words that nobody has met is left to itself", () => {
        expect(meaningOf("An error occurred (Throttling)")).toBeUndefined();
    });

    test.each([
        ["aws:ec2/instance:Instance::machine", "VcpuLimitExceeded", true],
        ["pulumi:providers:aws::aws", "No valid credential sources found", true],
        ["command:remote:Command::host-driver", "InvalidClientTokenId", false],
    ])("of %s is told with its meaning where it is AWS that said it", (resource, message, meant) => {
        const outcomes = new Outcomes("up");
        const urn = `urn:pulumi:huatuo::retune::${resource}`;
        outcomes.take({ diagnosticEvent: { message, severity: "error", urn } });
        const name = resource.split("::")[1] ?? "";
        expect(outcomes.errors).toEqual([
            meant ? `${name}: ${message}\n  ${meaningOf(message) ?? ""}` : `${name}: ${message}`,
        ]);
    });
});
