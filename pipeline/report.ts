import * as fs from "node:fs";
import * as path from "node:path";
import { z } from "zod";
import { digest, jsonObject, oneOf, text } from "./fields";
import type { Language } from "./report/data";
import type { Stage } from "./stage";
import { writeJson } from "./store/store";

/** `retune:report`. */
export const reportSettings = {
    /** Of the page's own words. Data and answers stay what they are. Without it, as the locale was at the first report. */
    language: oneOf(["en", "zh"]).optional(),
};

/** What the first of the variables says that decide about messages, as everywhere. */
export function languageOfLocale(): Language {
    const { LC_ALL, LC_MESSAGES, LANG } = process.env;
    const first = [LC_ALL, LC_MESSAGES, LANG].find((one) => one !== undefined && one !== "");
    return first !== undefined && /^zh/i.test(first) ? "zh" : "en";
}

const perStage = <Field extends z.ZodType>(field: Field) =>
    z.strictObject({ dataset: field, model: field, training: field, evaluation: field, export: field });

const fields = {
    ...reportSettings,
    stack: text("the name of the stack"),
    notice: z.string(),
    digests: perStage(digest("the digest of a stage")),
    /** Where the store has what the digests were made by. */
    keys: perStage(digest("the key of a stage")),
    /** Of the service, where the stack has one: what it serves and how, and its address on the target. */
    service: z.strictObject({ key: digest("the key of a service"), address: text("an address") }).optional(),
    tools: jsonObject().optional(),
};

type Inputs = z.infer<z.ZodObject<typeof fields>>;

/** What a program gives; the rest is found out. */
export type ReportArgs = Omit<Inputs, "tools">;

/** What the stages before it made: as one self-contained HTML page, and as JSON for programs. */
export const report: Stage<Inputs> = {
    kind: "Report",
    fields,
    transport: ["keys"],
    tools: () => ({ contract: 5 }),

    /** Who updates a stack from another locale makes no other report. */
    resolve: ({ language }, previous) =>
        Promise.resolve({ language: language ?? previous?.language ?? languageOfLocale() }),

    work({ stack, notice, language = languageOfLocale(), keys, service }) {
        return {
            on: "client",
            inPreview: "unknown",
            async run({ store, session, folder }) {
                const { gather } = await import("./report/gather");
                const { renderReport } = await import("./report/render");
                const data = await gather(store, { stack, notice, language, keys, session, service: service?.address });
                const page = path.join(folder, "report.html");
                await fs.promises.writeFile(page, await renderReport(data));
                await writeJson(path.join(folder, "report.json"), data);
                return { bytes: (await fs.promises.stat(page)).size };
            },
        };
    },

    effort: () => ({ amount: 1, like: {} }),

    facts: () => ({}),
};
