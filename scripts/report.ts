import * as fs from "node:fs";
import * as path from "node:path";
import { pathToFileURL } from "node:url";
import { Command } from "commander";
import { parseJson } from "../pipeline/identity";
import { REPORT_VERSION, type ReportData } from "../pipeline/report/data";
import { generationsOf, historyFolder } from "../pipeline/report/history";
import { renderMarkdown } from "../pipeline/report/markdown";
import { UserError } from "../pipeline/user-error";
import { parseOrExplain } from "./arguments";
import { home } from "./locations.cjs";

/** `npm run report`: where the report of a stack is, or what it says. */
export function report(args: readonly string[]): number {
    const command = new Command("npm run report --")
        .description("where the report of a stack's last update is, and the page of all its generations")
        .option("--stack <name>", "the stack", "dev")
        .option("--generation <number>", "an earlier one")
        .option("--markdown", "what it says, short, for a comment on a pull request", false)
        .option("--json", "all that it says, for programs", false);
    const options = parseOrExplain(command, args) as
        { stack: string; generation?: string; markdown: boolean; json: boolean } | undefined;
    if (options === undefined) return 0;
    const { stack } = options;
    const numbers = generationsOf(home(), stack).map(({ number }) => number);
    const last = numbers.at(-1);
    if (last === undefined) {
        throw new UserError(`there is no report of stack ${stack} in ${home()}: \`npm run up -- --stack ${stack}\``);
    }
    const wanted = options.generation === undefined ? last : Number(options.generation);
    if (!numbers.includes(wanted)) {
        const there = numbers.length === 1 ? `only ${last}` : `${numbers[0] ?? ""} to ${last}`;
        throw new UserError(`there is no generation ${options.generation ?? ""} of stack ${stack}, there is ${there}`);
    }
    const folder = path.join(historyFolder(home(), stack), String(wanted));
    const file = path.join(folder, "report.json");
    if (!fs.existsSync(file)) {
        throw new UserError(`the report of generation ${wanted} of stack ${stack} is gone: there is no ${file}`);
    }
    const text = fs.readFileSync(file, "utf8");
    const data = parseJson(text);
    if (data === undefined)
        throw new UserError(`the report of generation ${wanted} of stack ${stack} is torn: ${file} is no JSON`);
    if (options.markdown && data["version"] !== REPORT_VERSION) {
        throw new UserError(
            `the report of generation ${wanted} of stack ${stack} was made by another version of Retune: its page is there, ${path.join(folder, "report.html")}, but no Markdown of it`,
        );
    }
    if (options.json) process.stdout.write(`${text}\n`);
    else if (options.markdown) process.stdout.write(`${renderMarkdown(data as unknown as ReportData)}\n`);
    else {
        const place = (name: string): string => pathToFileURL(path.join(folder, name)).href;
        process.stdout.write(`report       ${place("report.html")}\ngenerations  ${place("../index.html")}\n`);
    }
    return 0;
}
