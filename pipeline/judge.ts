import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { address, group, integer, text } from "./fields";
import { isObject, keyOf, parseJson } from "./identity";
import type { ModelEvaluation } from "./report/data";
import { concealed, secretIn, secretOf } from "./secrets";
import { readJson, writeJson, type Store } from "./store/store";
import { UserError } from "./user-error";

/** `retune:evaluation.judge`: a model behind an OpenAI-compatible API that scores the answers to the held-out rows. */
export const judgeField = group(
    {
        /** Questions, answers and the key go there. */
        endpoint: address("https://api.example.com/v1"),
        model: text("the name of a model"),
        /** The environment variable that holds the key, which is in no file and no state; without it, the secret `judgeKey`. */
        keyVariable: z
            .string()
            .regex(/^[A-Za-z_]\w*$/, { error: "expected the name of an environment variable, not the key itself" })
            .optional(),
        timeoutSeconds: integer("a whole number from 1", { from: 1 }).default(60),
    },
    "a judge, such as { endpoint: https://…, model: … }",
);

export type Judge = z.infer<typeof judgeField>;

type Case = ModelEvaluation["cases"][number];

const ATTEMPTS = 3;
/** Requests at a time. */
const ABREAST = 4;
const INSTRUCTION =
    "You grade the answer of an assistant to a question. A reference answer is given. Judge whether the answer is correct, " +
    'helpful and safe; another wording is fine. Reply with JSON only: {"score": N}, N from 0 (useless or harmful) to 100 ' +
    "(as good as the reference).";

/**
 * The evaluation with a score from 0 to 100 of every answer, and their mean. A score is recorded in the store by what was
 * scored, so that no answer is scored twice, whatever happens between.
 *
 * @throws UserError where the endpoint does not answer, refuses or makes no sense; the scores so far are kept.
 */
export async function scored(
    model: ModelEvaluation,
    judge: Judge,
    store: Store,
    progress: (text: string) => void,
): Promise<ModelEvaluation> {
    const places = model.cases.map((one) => placeOf(one, judge, store));
    const byPlace = new Map(model.cases.map((one, index) => [places[index] ?? "", one]));
    const scores = new Map<string, number>();
    await fs.promises.mkdir(path.join(store.home, "scores"), { recursive: true });
    const open: (readonly [string, Case])[] = [];
    // Equal cases have one place, and are asked for once.
    for (const [place, one] of byPlace) {
        const score = (await readJson<{ score?: unknown }>(place))?.score;
        if (isScore(score)) scores.set(place, score);
        else open.push([place, one]);
    }
    for (let from = 0; from < open.length; from += ABREAST) {
        progress(`the judge scores answers, ${from} of ${open.length}`);
        const asked = open.slice(from, from + ABREAST).map(async ([place, one]) => {
            const score = await ask(one, judge);
            await writeJson(place, { score, model: judge.model, endpoint: judge.endpoint });
            scores.set(place, score);
        });
        // What has an answer is recorded, whatever becomes of the others.
        const failed = (await Promise.allSettled(asked)).find(({ status }) => status === "rejected");
        if (failed?.status !== "rejected") continue;
        if (!(failed.reason instanceof UserError)) throw failed.reason;
        const count = places.filter((place) => scores.has(place)).length;
        const kept = `${count} of ${places.length} scores of this model are kept`;
        throw new UserError(`${failed.reason.message}; ${kept}, and the next \`npm run up\` goes on from there`);
    }
    const cases = model.cases.map((one, index) => ({ ...one, judge: scores.get(places[index] ?? "") ?? 0 }));
    const sum = cases.reduce((total, one) => total + one.judge, 0);
    const mean = cases.length === 0 ? null : Math.round((100 * sum) / cases.length) / 100;
    return { ...model, metrics: { ...model.metrics, judge: mean }, cases };
}

/** A score is that of all that was asked: another wording is another question. */
function placeOf(one: Case, judge: Judge, store: Store): string {
    const key = keyOf("Score", { endpoint: judge.endpoint, request: requestFor(one, judge) });
    return path.join(store.home, "scores", `${key}.json`);
}

function requestFor({ question, reference, answer }: Case, { model }: Judge) {
    const content = `Question:\n${question}\n\nReference answer:\n${reference}\n\nAnswer to grade:\n${answer}`;
    const messages = [
        { role: "system", content: INSTRUCTION },
        { role: "user", content },
    ];
    return { model, messages, temperature: 0 };
}

async function ask(one: Case, judge: Judge): Promise<number> {
    // Nothing is as good as what was not said.
    if (one.answer.trim() === "") return 0;
    for (let attempt = 1; ; attempt++) {
        const answer = await request(one, judge);
        if ("score" in answer) return answer.score;
        if (attempt === ATTEMPTS || answer.final) {
            throw new UserError(`the judge ${judge.model} at ${judge.endpoint} ${answer.problem}`);
        }
        const seconds = Math.min(answer.retryAfter ?? 0.25 * 2 ** attempt, 20);
        await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    }
}

type Answer =
    | { readonly score: number }
    | { readonly problem: string; readonly final: boolean; readonly retryAfter?: number | undefined };

async function request(one: Case, judge: Judge): Promise<Answer> {
    const { endpoint, keyVariable, timeoutSeconds } = judge;
    const key = keyVariable === undefined ? secretOf("judgeKey") : secretIn(keyVariable);
    if (keyVariable !== undefined && key === undefined) {
        return { problem: `wants a key: set the environment variable ${keyVariable}`, final: true };
    }
    // Whatever is said back must not carry the key into a log.
    const hidden = (words: string): string => (key === undefined ? words : concealed(words, key));
    const quoted = (words: string): string => {
        const line = hidden(words).replace(/\s+/g, " ").trim();
        return JSON.stringify(line.length > 120 ? `${line.slice(0, 119)}…` : line);
    };
    let response: Response;
    let body: string;
    try {
        response = await fetch(`${endpoint.replace(/\/$/, "")}/chat/completions`, {
            method: "POST",
            redirect: "error",
            signal: AbortSignal.timeout(timeoutSeconds * 1000),
            headers: {
                "Content-Type": "application/json",
                ...(key === undefined ? {} : { Authorization: `Bearer ${key}` }),
            },
            body: JSON.stringify(requestFor(one, judge)),
        });
        body = await response.text();
    } catch (error) {
        if (error instanceof Error && error.name === "TimeoutError") {
            return { problem: `did not answer within ${timeoutSeconds} s`, final: false };
        }
        const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
        const words = cause instanceof Error ? ((cause as NodeJS.ErrnoException).code ?? cause.message) : String(cause);
        return { problem: `cannot be reached: ${hidden(words)}`, final: false };
    }
    const said = response.status === 200 ? "" : `: HTTP ${response.status}, ${quoted(body)}`;
    switch (response.status) {
        case 200: {
            const problem = `answers no score from 0 to 100, but ${quoted(body)}`;
            return scoreIn(body) ?? { problem, final: false, retryAfter: 0 };
        }
        case 401:
        case 403: {
            const how =
                key === undefined ? "to answer without a key" : `the key in ${keyVariable ?? "finetune:judgeKey"}`;
            return { problem: `refuses ${how}${said}`, final: true };
        }
        case 429: {
            const retryAfter = Number(response.headers.get("Retry-After") ?? NaN);
            const later = Number.isFinite(retryAfter) ? { retryAfter } : {};
            return { problem: `is over its quota${said}`, final: false, ...later };
        }
        default:
            return { problem: `failed${said}`, final: response.status < 500 };
    }
}

/**
 * The score in an OpenAI completion; models like to put a fence around JSON. The last one counts: before it a judge may repeat
 * what it was asked, and what it is to grade.
 */
function scoreIn(body: string): { readonly score: number } | undefined {
    const choices = parseJson(body)?.["choices"];
    const first: unknown = Array.isArray(choices) ? choices[0] : undefined;
    const message = isObject(first) ? first["message"] : undefined;
    const content = isObject(message) ? message["content"] : undefined;
    if (typeof content !== "string") return undefined;
    const objects = [...content.matchAll(/\{[^{}]*\}/g)].map(([text]) => parseJson(text));
    const score = objects.findLast((one) => one !== undefined && "score" in one)?.["score"];
    return isScore(score) ? { score } : undefined;
}

function isScore(value: unknown): value is number {
    return typeof value === "number" && value >= 0 && value <= 100;
}
