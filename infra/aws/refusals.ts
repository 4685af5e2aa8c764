/*
 * AWS's own words where it refuses something, whoever was told them: Pulumi's provider, the command line, the SDK. What is
 * said here is what they mean and what to do.
 */

const GET = "`aws sts get-caller-identity`";

const MEANINGS: readonly (readonly [words: RegExp, meaning: string])[] = [
    [
        // Before the credentials that are missing: of a session that has expired, some say that there is none.
        /RequestExpired|Expired ?Token|token (included in the request )?is expired|has expired|SSO (token|session)/i,
        `the AWS credentials have expired: log in again, until ${GET} answers, and repeat the command, which goes on where it was; what runs on a machine goes on meanwhile`,
    ],
    [
        /No valid credential sources|no EC2 IMDS role|Unable to locate credentials|NoCredentials|config profile .* could not be found/i,
        `there are no AWS credentials: \`aws configure\` or AWS_PROFILE, and ${GET} shows whose they are`,
    ],
    [
        /invalid AWS Region|no such host|Could not connect to the endpoint|Invalid endpoint/i,
        "target.region: AWS does not answer there: `aws ec2 describe-regions --all-regions --query Regions[].RegionName --region us-east-1` lists its regions",
    ],
    [
        /OptInRequired|InvalidClientTokenId|UnrecognizedClient|AuthFailure|security token included in the request is invalid/i,
        `AWS does not take these credentials there: ${GET} shows whether they are good; then target.region is one that the account has not enabled, and \`aws account enable-region --region-name NAME\` does that`,
    ],
    [
        /InsufficientInstanceCapacity|SpotMaxPriceTooLow|no Spot capacity/i,
        "AWS has no such machine free now: try again later, or set target.zone or target.instanceType to another",
    ],
    [
        /ParameterNotFound|SSM Parameter .*couldn't find resource/,
        "target.system: AWS names no image of it there: choose another one, or set target.image to an id",
    ],
    [
        /VcpuLimitExceeded|MaxSpotInstanceCountExceeded|InstanceLimitExceeded/,
        "the account's quota is used up by other machines: stop those, or ask for more in AWS's Service Quotas",
    ],
    [
        /BucketAlreadyExists|BucketAlreadyOwnedByYou/,
        "a bucket of this name is somebody's already, and all of AWS shares the names: repeat the command, which takes another name each time",
    ],
    [
        /TooManyBuckets/,
        "the account has as many buckets as it may: remove one, or ask for more in AWS's Service Quotas",
    ],
    [
        /UnauthorizedOperation|AccessDenied|is not authorized to perform/,
        `who is logged in may not do this: ${GET} shows who that is, and docs/aws.md lists the rights that are needed`,
    ],
];

/** What AWS's words mean and what to do about them; undefined for words that are not among these. */
export function meaningOf(said: string): string | undefined {
    return MEANINGS.find(([words]) => words.test(said))?.[1];
}
