import { describe, expect, onTestFinished, test, vi } from "vitest";
import { quotaOf } from "../../infra/aws/offers";
import { declaredTargetSchema, precisionOn } from "../../infra/target";
import type { JsonObject } from "../../pipeline/identity";
import { OfferLifecycle } from "../../pipeline/provider/offer";
import { Store } from "../../pipeline/store/store";
import { temporaryFolder } from "./datasets/folder";

const urn = "urn:pulumi:huatuo::retune::finetune:infra:Offer::offer";

const terms: JsonObject = {
    instanceType: "g5.xlarge",
    region: "us-east-1",
    spot: false,
    precision: "bf16",
    gpu: "required",
    pricePerHour: 1.006,
    deadline: 24,
    disk: 200,
    idleMinutes: 15,
    image: "kept",
    system: "ubuntu-22.04",
    publicKey: "ssh-ed25519 PUBLIC",
};
const there: JsonObject = { zones: ["us-east-1b", "us-east-1a"], quota: 8, newest: "ami-0001", problems: [] };

/** The terms, with other settings, on another day. */
const on = (settings: JsonObject = {}, found: JsonObject = {}): JsonObject => ({
    ...terms,
    ...settings,
    found: { ...there, ...found },
});

function offer() {
    const said: string[] = [];
    return { offer: new OfferLifecycle(new Store(temporaryFolder()), (_urn, text) => said.push(text)), said };
}

/** What is said in a preview, and again in an update, of what cannot be had. */
async function refused(news: JsonObject): Promise<string> {
    const said = async (asked: Promise<unknown>): Promise<string> =>
        asked.then(
            () => "",
            (error: unknown) => (error as Error).message,
        );
    const [preview, update] = [
        await said(offer().offer.preview(urn, news)),
        await said(offer().offer.apply(urn, news)),
    ];
    expect(update).toBe(preview);
    return preview;
}

describe("what is refused before anything is made", () => {
    test.each<[string, JsonObject, JsonObject, string]>([
        [
            "a quota of 0",
            {},
            { quota: 0 },
            'target.instanceType: g5.xlarge has 4 vCPUs, and this account may have 0 of "Running On-Demand G and VT instances" in us-east-1: ask for more with `aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-DB2E81BA --desired-value 4 --region us-east-1` (hours to days)',
        ],
        [
            "a region without the type",
            {},
            { zones: [] },
            "target.instanceType: us-east-1 has no g5.xlarge: choose another type, or another target.region",
        ],
        [
            "a zone without the type",
            { zone: "us-east-1e" },
            {},
            "target.zone: us-east-1e has no g5.xlarge; there is us-east-1a, us-east-1b",
        ],
        [
            "a budget smaller than one step",
            { budget: 0.01 },
            {},
            "target.budget: $0.010 buys 36 s of g5.xlarge at $1.01 an hour, and to load a model and do one step takes longer: $0.090 is the least",
        ],
        [
            "a run's money smaller than one step",
            { runCost: 0.01 },
            {},
            "target.limits.cost: $0.010 buys 36 s of g5.xlarge at $1.01 an hour, and to load a model and do one step takes longer: $0.090 is the least",
        ],
        [
            "no credentials",
            {},
            {
                quota: null,
                problems: ["which zones have", "what the account's quota is"].map(
                    (what) => `${what}: No valid credential sources found`,
                ),
            },
            "there are no AWS credentials: `aws configure` or AWS_PROFILE, and `aws sts get-caller-identity` shows whose they are (AWS was asked which zones have: No valid credential sources found)",
        ],
        [
            "what AWS says in other words",
            {},
            { quota: null, problems: ["which zones have: Throttling", "what the account's quota is: Throttling"] },
            "AWS was asked which zones have: Throttling\n  AWS was asked what the account's quota is: Throttling",
        ],
        [
            "no image of that name",
            {},
            { newest: null, problems: ["which image is the newest of ubuntu-22.04: ParameterNotFound"] },
            "target.system: AWS names no image of it there: choose another one, or set target.image to an id (AWS was asked which image is the newest of ubuntu-22.04: ParameterNotFound)",
        ],
    ])("%s", async (_what, settings, found, message) => {
        const given = Object.fromEntries(Object.entries(found).filter(([, value]) => value !== null));
        const { quota, newest, ...rest } = there;
        const known = { ...rest, ...("quota" in found ? {} : { quota }), ...("newest" in found ? {} : { newest }) };
        const count = message.includes("\n") ? ", for 2 reasons" : "";
        expect(await refused({ ...terms, ...settings, found: { ...known, ...given } })).toBe(
            `nothing is made${count}:\n  ${message}`,
        );
    });

    test("all of it at once", async () => {
        const said = await refused(on({ budget: 0.01 }, { quota: 0, zones: [] }));
        expect(said.split("\n")).toHaveLength(4);
        expect(said).toMatch(/^nothing is made, for 3 reasons:\n/);
    });

    test("and nothing where all is well", async () => {
        expect(await refused(on())).toBe("");
    });
});

describe("an offer", () => {
    test("says price, date, source, and what it can come to", async () => {
        vi.useFakeTimers({ now: Date.parse("2026-12-01T10:00:00Z") });
        onTestFinished(() => {
            vi.useRealTimers();
        });
        const { offer: one, said } = offer();
        expect(await one.preview(urn, on({ budget: 10 }))).toEqual({
            zone: "us-east-1a",
            image: "ami-0001",
            until: "2026-12-02T10:00:00Z",
            facts: {
                asleep: "$0.53 a day, after 15 idle minutes",
                awake: "$1.01 an hour (AWS Pricing API, us-east-1, 2026-08-17)",
                machine: "g5.xlarge, A10G of 24 GiB",
                most: "$10.00 until 2026-12-02T10:00:00Z",
            },
            action: "would-run",
        });
        expect(said).toHaveLength(1);
    });

    test("of a GPU without bf16 says that it is fp16, and the stages get that", async () => {
        const { offer: one, said } = offer();
        await one.preview(urn, on({ instanceType: "g4dn.xlarge", precision: "fp16", pricePerHour: 0.526 }));
        expect(said[0]).toContain("machine: g4dn.xlarge, T4 of 16 GiB, which has no bf16: training.precision is fp16");
        const target = declaredTargetSchema.parse({ type: "aws", region: "us-east-1", instanceType: "g4dn.xlarge" });
        expect([precisionOn(target, "bf16"), precisionOn(target, "fp32")]).toEqual(["fp16", "fp32"]);
        expect(precisionOn(declaredTargetSchema.parse({ type: "aws", region: "us-east-1" }), "bf16")).toBe("bf16");
    });

    test("keeps its zone while that has the type, and its deadline while that setting stays", async () => {
        const { offer: one } = offer();
        const olds = { zone: "us-east-1b", until: "2026-12-01T00:00:00Z", image: "ami-0000" };
        expect(await one.apply(urn, on({ disk: 300 }), olds, on())).toMatchObject({ ...olds, action: "ran" });
        expect(await one.apply(urn, on({}, { zones: ["us-east-1a"] }), olds, on())).toMatchObject({
            zone: "us-east-1a",
        });
        const { until } = await one.apply(urn, on({ deadline: 8 }), olds, on());
        expect(until).not.toBe(olds.until);
    });

    test("keeps its image until another is asked for", async () => {
        const { offer: one } = offer();
        const olds = { zone: "us-east-1b", until: "2026-12-01T00:00:00Z", image: "ami-0000" };
        const image = async (asked: string, newest: string): Promise<unknown> =>
            (await one.apply(urn, on({ image: asked }, { newest }), olds, on()))["image"];
        expect(await image("kept", "ami-0002")).toBe("ami-0000");
        expect(await image("latest", "ami-0002")).toBe("ami-0002");
        expect(await image("ami-0abc1234", "ami-0002")).toBe("ami-0abc1234");
    });

    test("under latest moves once: a newer image comes with the next new machine, not with another setting", async () => {
        const { offer: one } = offer();
        const olds = { zone: "us-east-1b", until: "2026-12-01T00:00:00Z", image: "ami-0000" };
        const image = async (settings: JsonObject): Promise<unknown> =>
            (await one.apply(urn, on({ image: "latest", ...settings }), olds, on({ image: "latest" })))["image"];
        expect(await image({ idleMinutes: 20 })).toBe("ami-0000");
        expect(await image({ instanceType: "g6.xlarge" })).toBe("ami-0001");
    });

    test("of another region or system has an image of that, also one that is kept", async () => {
        const { offer: one } = offer();
        const olds = { zone: "us-east-1b", until: "2026-12-01T00:00:00Z", image: "ami-0000" };
        for (const settings of [{ region: "us-west-2" }, { system: "ubuntu-24.04" }])
            expect(await one.apply(urn, on(settings), olds, on())).toMatchObject({ image: "ami-0001" });
    });

    test.each<[string, JsonObject, string, string]>([
        [
            "another machine has a new one",
            { instanceType: "g6.xlarge" },
            "2026-12-01T00:00:00Z",
            "2026-12-03T10:00:00Z",
        ],
        [
            "one with another key has too",
            { publicKey: "ssh-ed25519 ANOTHER" },
            "2026-12-01T00:00:00Z",
            "2026-12-03T10:00:00Z",
        ],
        ["of another image too", { image: "latest" }, "2026-12-01T00:00:00Z", "2026-12-03T10:00:00Z"],
        ["the same one does not", { idleMinutes: 20 }, "2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"],
        ["before it no machine does", { instanceType: "g6.xlarge" }, "2026-12-02T11:00:00Z", "2026-12-02T11:00:00Z"],
    ])("after its deadline %s", async (_what, settings, before, until) => {
        vi.useFakeTimers({ now: Date.parse("2026-12-02T10:00:00Z") });
        onTestFinished(() => {
            vi.useRealTimers();
        });
        const olds = { zone: "us-east-1b", until: before, image: "ami-0000" };
        expect(await offer().offer.apply(urn, on(settings), olds, on())).toMatchObject({ until });
    });

    test("is not another because of what AWS has, or does not say, today", () => {
        const { offer: one } = offer();
        const another = on({}, { quota: 0, zones: ["us-east-1c"], newest: "ami-0002", problems: ["it is silent"] });
        expect(one.diff(urn, on(), {}, another)).toEqual([]);
        expect(one.diff(urn, on(), {}, on({ instanceType: "g6.xlarge" }))).toHaveLength(1);
    });
});

test.each([
    ["g5.xlarge", false, "L-DB2E81BA"],
    ["g5.xlarge", true, "L-3819A6DF"],
    ["p4d.24xlarge", false, "L-417A185B"],
    ["p4d.24xlarge", true, "L-7212CCBC"],
    ["p5.48xlarge", true, "L-C4BD4855"],
] as const)("%s, spot %s, counts in quota %s", (type, spot, code) => {
    expect(quotaOf(type, spot).code).toBe(code);
});
