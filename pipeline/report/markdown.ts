import type { ReportData } from "./data";
import { named } from "./facts";
import { difference, loss, money, score } from "./format";
import { wordsOf, type Metric } from "./words";

/** The verdict, the metrics and what was changed, short enough for a comment on a pull request. */
export function renderMarkdown(data: ReportData): string {
    const words = wordsOf(data.language);
    const { verdict, differences, stages, incumbent, cost, service } = data;
    const mark = { accepted: "✅", ungated: "✅", overridden: "⚠️", refused: "❌" }[verdict.decision];
    const conditions = verdict.conditions.map((one) => `- ${one.held ? "✅" : "❌"} ${escaped(words.condition(one))}`);
    const metrics = [...new Set(differences.map(({ metric }) => metric))];
    const against = incumbent === undefined ? (["base"] as const) : (["base", "incumbent"] as const);
    const head = [
        words.measure,
        ...against.map((one) => words.short[one]),
        words.short.tuned,
        ...against.map((one) => words.difference(one, against.length === 1)),
    ];
    const rows = metrics.map((metric) => {
        const found = against.map((one) => differences.find((two) => two.metric === metric && two.against === one));
        const shown = (value: number | undefined): string => (value === undefined ? "–" : formatOf(metric)(value));
        return [
            words.metric[metric],
            ...found.map((one) => shown(one?.other)),
            shown(found[0]?.tuned),
            ...found.map((one) => (one === undefined ? "–" : changeOf(one))),
        ];
    });
    const table = [head, head.map((_, index) => (index === 0 ? "---" : "---:")), ...rows];
    const changes = stages.flatMap(({ name, reasons }) =>
        reasons.map((reason) => `- ${escaped(name)}: ${escaped(reason)}`),
    );
    const facts = [
        ...(cost === undefined ? [] : [`${words.cost}: ${money(cost)} (${words.costNote})`]),
        ...(service === undefined ? [] : [words.servedAt(code(`npm run api -- --stack ${named(data.stack)}`))]),
    ];
    const { override } = verdict;
    const reason = override && `${words.reason}: ${escaped(override.reason)} (${escaped(override.model.slice(0, 12))})`;
    return [
        [`## ${mark} ${escaped(data.stack)}: ${words.decision[verdict.decision]}`],
        [data.hasModel === false ? words.decidedFirst : words.decided[verdict.decision]],
        reason === undefined ? [] : [reason],
        conditions,
        verdict.warnings.map((one) => `> ${escaped(words.warning(one, verdict.conditions))}`),
        rows.length === 0 ? [] : table.map((cells) => `| ${cells.join(" | ")} |`),
        changes,
        facts.map((fact) => `- ${fact}`),
        data.notice === "" ? [] : [`_${escaped(data.notice)}_`],
    ]
        .filter((lines) => lines.length > 0)
        .map((lines) => lines.join("\n"))
        .join("\n\n");
}

function formatOf(metric: Metric): (value: number) => string {
    return metric === "evalLoss" ? loss : score;
}

/** From the rounded values, as a reader would compute it, with the interval that holds it. */
function changeOf({ metric, tuned, other, interval }: ReportData["differences"][number]): string {
    const format = formatOf(metric);
    const change = difference(Number(format(tuned)) - Number(format(other)), format);
    return interval === undefined
        ? change
        : `${change} [${difference(interval.low, format)}, ${difference(interval.high, format)}]`;
}

/** Text of the data stays text: neither markup, nor a link, nor somebody who is called. */
function escaped(text: string): string {
    return text
        .slice(0, 300)
        .replace(/\s+/g, " ")
        .replace(/[\\`*_{}[\]<>()#|!~&]/g, String.raw`\$&`)
        .replace(/@/g, "@\u200b")
        .replace(/:\/\//g, ":\u200b//")
        .replace(/www\./gi, (www) => `${www.slice(0, -1)}\u200b.`);
}

/** To be copied: in code nothing is escaped, and only a backtick could end it. */
function code(command: string): string {
    return `\`${command.replace(/[`\s]+/g, " ")}\``;
}
