import { huatuoLite } from "../../datasets/huatuo-lite";
import { MEANINGS, type Finding } from "../../datasets/quality";
import type { Language, ReportData, ReportStage } from "./data";

/** What a report says in one language. Data and what the engine says of changes are shown as they are. */
export type Words = typeof english;

export function wordsOf(language: Language): Words {
    switch (language) {
        case "en":
            return english;
        case "zh":
            return chinese;
    }
}

export type Metric = "evalLoss" | "bleu4" | "rouge1" | "rouge2" | "rougeL" | "judge";
type Verdict = ReportData["verdict"];
type Decision = Verdict["decision"];
type Action = ReportStage["action"];
type Change = "better" | "worse" | "the same" | "unsure";
type Model = "base" | "incumbent" | "tuned";
type Show = "all" | "worse" | "better" | "cut" | "empty";

function count(value: number): string {
    return value.toLocaleString("en-US");
}

function plural(number: number, one: string, many = `${one}s`): string {
    return `${count(number)} ${number === 1 ? one : many}`;
}

const english = {
    count,
    duration: (seconds: number): string => {
        if (seconds < 1) return "under 1 s";
        const whole = Math.round(seconds);
        if (whole < 60) return `${whole} s`;
        const minutes = Math.floor(whole / 60);
        if (minutes < 60) return `${minutes} min ${whole % 60} s`;
        return `${count(Math.floor(minutes / 60))} h ${minutes % 60} min`;
    },
    title: "Retune report",
    skip: "Skip to the verdict",
    sections: "Sections",
    footer: "Made by Retune. This page is one file; it runs no scripts and loads nothing.",
    history: "All generations of this stack",
    historyNote: "(a page on the machine that made this one)",
    /** As the recipe has it. */
    notice: (text: string): string => text,
    section: {
        verdict: "Verdict",
        answers: "Answers",
        stages: "Stages",
        curves: "Curves",
        metrics: "Metrics",
        cases: "Held-out cases",
        dataset: "Data set",
        settings: "Training settings",
        use: "Use the model",
        provenance: "Provenance",
    },
    model: { base: "Base model", incumbent: "Incumbent", tuned: "Tuned model" } satisfies Record<Model, string>,
    short: { base: "Base", incumbent: "Incumbent", tuned: "Tuned" } satisfies Record<Model, string>,
    metric: {
        evalLoss: "Held-out loss",
        bleu4: "BLEU-4",
        rouge1: "ROUGE-1",
        rouge2: "ROUGE-2",
        rougeL: "ROUGE-L",
        judge: "Judge",
    } satisfies Record<Metric, string>,
    inSentence: (name: string): string => name.replace(/^H/, "h"),
    colon: ": ",
    comma: ", ",
    /** Between sentences. */
    gap: " ",
    /** Between what belongs together, and between what is listed. */
    clause: " ",
    listed: ", ",
    change: {
        "better": "better",
        "worse": "worse",
        "the same": "the same",
        "unsure": "may be chance",
    } satisfies Record<Change, string>,

    decision: {
        accepted: "Accepted",
        refused: "Refused",
        overridden: "Accepted by a person, against the gate",
        ungated: "No gate",
    } satisfies Record<Decision, string>,
    inShort: {
        accepted: "accepted",
        refused: "refused",
        overridden: "overridden",
        ungated: "no gate",
    } satisfies Record<Decision, string>,
    decided: {
        accepted: "The gate's conditions hold; this is the model of the stack now.",
        refused:
            "A condition of the gate does not hold: the model of the stack stays the one before. The refused one is in the store.",
        overridden: "A condition of the gate does not hold; a person has accepted the model all the same.",
        ungated: "Nothing was asked of this model, so it is the model of the stack now.",
    } satisfies Record<Decision, string>,
    /** Of a model that was refused, where the stack has none of before. */
    decidedFirst:
        "A condition of the gate does not hold, and the stack has no model yet. The refused one is in the store.",
    reason: "Reason given",
    conditions: "Conditions of the gate",
    holds: "holds",
    fails: "does not hold",
    against: (metric: string, tuned: string, other: string, whose: "base" | "incumbent" | "threshold"): string => {
        const of = { base: "of the base model", incumbent: "of the incumbent", threshold: "as the limit" }[whose];
        return `${metric} ${tuned} against ${other} ${of}`;
    },
    perTunedToken: ", per token of the tuned model",
    between: (low: string, high: string, percent: number): string =>
        `difference between ${low} and ${high} (${percent}\u00a0% sure)`,
    noIncumbent: (metric: string): string => `${metric}: there is no incumbent to compare with yet`,
    /** The gate's own sentences are English. */
    condition: ({ text }: Verdict["conditions"][number]): string => text,
    warning: ({ text }: Verdict["warnings"][number], _conditions: Verdict["conditions"]): string => text,
    compared: (result: "better" | "worse" | "mixed" | "same", other: "base" | "incumbent"): string => {
        const model = other === "base" ? "the base model" : "the incumbent";
        switch (result) {
            case "better":
                return `Better than ${model}`;
            case "worse":
                return `Worse than ${model}`;
            case "mixed":
                return `Better than ${model} in one measure, worse in another`;
            case "same":
                return `The same as ${model}`;
        }
    },
    notMeasured: "Not measured",
    nothingHeldOut: "nothing was held out for a test.",
    readInstead: "Read the answers below instead.",
    baseToTuned: "base → tuned",

    trainingLoss: "Training loss",
    afterSteps: (steps: number): string => `after ${plural(steps, "step")}`,
    firstToLast: (steps: number): string => `first → last, ${plural(steps, "step")}`,
    thisUpdate: "This update",
    workIn: (some: number, all: number): string => `work in ${some} of ${plural(all, "stage")}`,
    nothingToDo: "Nothing to do",
    allThere: "all results were there",
    cost: "Cost",
    costNote: "of this update, at the target's price",
    spent: "Spent so far",
    spentNote: (budget: string | undefined): string =>
        `dollars, for all hours of the stack's machines${budget === undefined ? "" : `, of a budget of ${budget}`}`,
    files: (number: number): string => plural(number, "file"),

    noStages: "No stages.",
    /** What a stage is, where its name does not say it. */
    kind: (kind: string): string => kind,
    graph: "What this update did, and in what order",
    action: {
        ran: "ran",
        cached: "cached",
        attached: "attached",
        unchanged: "unchanged",
        refused: "refused",
        failed: "failed",
        skipped: "skipped",
    } satisfies Record<Action, string>,
    took: {
        ran: (time: string): string => `Took ${time}, in this update`,
        cached: (time: string): string => `Took ${time}, in an earlier run whose result was taken over`,
        attached: (time: string): string => `Took ${time}, in a run that was already going on`,
        unchanged: (time: string): string => `Took ${time}, in an earlier run; nothing that it depends on has changed`,
        refused: (time: string): string => `Took ${time}; the gate has refused the model`,
        failed: (_time: string): string => "It failed",
        skipped: (_time: string): string => "Not run, because the model was refused",
    } satisfies Record<Action, (time: string) => string>,
    served: {
        ran: (time: string): string => `Serves the model, after ${time}`,
        attached: (_time: string): string => "Serves the model, which was coming up already",
        unchanged: (_time: string): string => "Serves on; nothing that it depends on has changed",
        failed: (_time: string): string => "The model did not come up",
        skipped: (_time: string): string => "Left as it is, because the model was refused",
    } satisfies Record<Exclude<Action, "cached" | "refused">, (time: string) => string>,
    servedAt: (command: string): string => `The API's address and key: ${command}`,
    expected: (time: string): string => `; ${time} were expected`,
    costs: (amount: string): string => `, cost ${amount}`,
    stop: ".",
    why: "Why:",
    isNew: "it is new in this stack.",
    run: "run",
    finished: "finished",
    on: "on",
    digest: "digest",
    driver: "driver",
    cpus: (number: number): string => plural(number, "CPU"),

    noLosses: "No losses were logged.",
    loss: "Loss",
    ofTraining: "training",
    ofValidation: "validation",
    ofIncumbent: "training of the incumbent",
    ofIncumbentValidation: "validation of the incumbent",
    validationLoss: "Validation loss",
    incumbentLoss: "Training loss of the incumbent",
    incumbentValidation: "Validation loss of the incumbent",
    learningRate: "Learning rate",
    incumbentRate: "Learning rate of the incumbent",
    step: "step",
    lowest: (step: number, loss: string): string => `The validation loss was lowest at step ${count(step)}: ${loss}.`,
    noValidation: "There are no validation rows, hence no validation loss.",
    lost: (steps: number, time: string): string =>
        `The training was interrupted: ${plural(steps, "step")} (${time}) after the last checkpoint were lost and done again.`,
    nothingLost: "The training was interrupted; no step was lost.",
    resumed: (step: number): string => `It went on from the checkpoint at step ${count(step)}.`,
    atStep: (name: string, value: string, step: number): string => `${name}: ${value} at step ${count(step)}.`,
    fromTo: (name: string, first: string, from: number, last: string, to: number): string =>
        `${name}: from ${first} at step ${count(from)} to ${last} at step ${count(to)}.`,
    numbers: "The numbers of the charts",
    everyStep: "Every logged step.",
    someSteps: (some: number, all: number): string => `At ${count(some)} of ${count(all)} logged steps.`,
    columns: { step: "Step" },

    noHeldOut: "There are no held-out rows, so nothing was scored.",
    measured: (rows: number, answers: number): string =>
        `The loss is over ${plural(rows, "held-out row")}, the scores are over ${plural(answers, "answer")}.`,
    few: "With so few, a difference may be chance.",
    measure: "Measure",
    difference: (to: "base" | "incumbent", alone: boolean): string =>
        alone ? "Difference" : to === "base" ? "Against base" : "Against incumbent",
    explained:
        "Loss: mean cross-entropy per token of the reference answer; lower is better. BLEU (over characters) and ROUGE (F, over words) compare an answer with the reference, in percent; higher is better.",
    interval:
        "In brackets the interval that holds the difference with 95 % confidence, by a paired bootstrap over the rows. Where it holds 0, the difference may be chance.",
    noPrompts: "No fixed prompts are configured.",
    notAsked: "(not asked)",
    cutOff: "Cut off: the limit of new tokens was reached.",
    noCases: "No held-out question was answered.",
    worstFirst: (than: "base" | "incumbent"): string =>
        `Worst first. The number is the ROUGE-L of the tuned model's answer, and by how much it differs from that of the ${than === "base" ? "base model" : "incumbent"}.`,
    filter: "Show",
    show: { all: "all", worse: "worse", better: "better", cut: "cut off", empty: "empty" } satisfies Record<
        Show,
        string
    >,
    question: "Question",
    reference: "Reference",
    leftOut: (number: number): string =>
        `${plural(number, "more case")} left out to keep the page small; report.json has them all.`,
    emptyText: "(empty)",
    moreCharacters: (number: number): string => `… and ${count(number)} more characters.`,

    sourceToRows: "From the source to the rows that are kept",
    rows: "Rows",
    number: "Number",
    share: "Share",
    percent: (share: number): string => `${(share * 100).toFixed(1)} %`,
    read: "Read",
    dropped: "Dropped:",
    /** As the conversion names it. */
    dropReason: (reason: string): string => reason,
    kept: "Kept",
    rowsAreFor: "What the rows are for",
    train: "Training",
    validation: "Validation",
    test: "Test (held out)",
    characters: "Characters of question and answer",
    half: "Half have at most",
    most: "95 % have at most",
    longest: "The longest has",
    tokens: (looked: number): string => `Tokens of the first ${count(looked)} training rows`,
    cutoff: "Cut-off of the training",
    overCutoff: "Longer, hence cut off",
    found: "Found in the rows",
    nothingFound: "Nothing was found amiss in the rows.",
    finding: MEANINGS as Readonly<Record<Finding, string>>,
    rowsThat: (meaning: string, rows: number): string => `Rows that ${meaning}: ${count(rows)}`,
    /** As the conversion says it. */
    foundAt: (text: string): string => text,
    examples: "Examples of training rows",
    answer: "Answer",

    noSettings: "No settings were given.",
    /** By what the chat compares it with. */
    refusedModel: {
        incumbent:
            "Nothing was exported, because the model was refused. The stack's model is the one before; the adapter that was refused is here:",
        base: "Nothing was exported, because the model was refused, and the stack has no model yet. The adapter that was refused is here:",
    },
    parityNone: "There was no adapter to merge, so its answers were not compared.",
    parity: (equal: number, checked: number): string => {
        const prompts = plural(checked, "prompt");
        return equal === checked
            ? `The merged model answers ${checked === 1 ? "the" : "all"} ${prompts} exactly like base + adapter.`
            : `The merged model answers ${equal} of ${prompts} exactly like base + adapter (in half precision, rounding alone can change a token).`;
    },
    logits: (share: string): string => `Their logits differ by at most ${share} of the largest one.`,
    tensors: (number: number): string => `Its ${plural(number, "tensor")} are those that the training makes.`,
    inChat: "Talk to it in a terminal; the base model beside it with --compare:",
    inWebUi: "In LLaMA-Factory's web UI, in a browser:",
    talkToBoth: {
        incumbent: "Talk to it, and to the model of the stack beside it:",
        base: "Talk to it, and to the base model beside it:",
    },
    notServed: (stack: string): string =>
        `As an OpenAI-compatible API, with retune:service: { enabled: true } in Pulumi.${stack}.yaml:`,
    asApi: "As an OpenAI-compatible API:",
    tryAgain:
        "The service did not come up with this model; its stage above says why. Once that is put right, this starts it:",
    servesOn: "The service did not come up with this model. The model before it goes on serving.",
    servedAs: (address: string): string =>
        `It is at ${address} on the stack's target. From where the stack is kept, this names an address and the file that has the key:`,
    thenAsk: "With these two:",
    servedHere: (address: string): string =>
        `It is at ${address} on the machine that made this page, and its key is in a file there:`,
    inPython: "In Python, with transformers:",
    inTerminal: "In a terminal, with LLaMA-Factory:",
    check: "Check that all files are as they were made:",
    everything: "Everything the model was made of, as JSON",
    restOfProvenance: "The rest is in retune.json beside the model.",
    digests: "Digests",
    stage: "Stage",

    generation: "Generation",
    generations: (stack: string): string => `Generations of ${stack}`,
    historyIntro: "One for each update that changed something, the newest first.",
    made: "Made",
    result: "Verdict",
    changed: "What changed",
    nothingChanged: "as before",
    firstOfAll: "the first",
    metricsOverTime: "Held-out loss of the tuned models, refused ones too",
};

const KINDS: Readonly<Record<string, string>> = {
    Dataset: "数据集",
    Model: "基础模型",
    Training: "训练",
    Evaluation: "评估",
    Export: "导出",
    Service: "服务",
};

function chinesePart(part: string): string {
    const parts: Readonly<Record<string, string>> = { train: "训练", validation: "验证", test: "测试" };
    return parts[part] ?? part;
}

/** After Chinese a number has a space before it, another word has none. */
function spaced(text: string): string {
    return /^\d/.test(text) ? ` ${text}` : text;
}

const chinese: Words = {
    count,
    duration: (seconds) => {
        if (seconds < 1) return "不到 1 秒";
        const whole = Math.round(seconds);
        if (whole < 60) return `${whole} 秒`;
        const minutes = Math.floor(whole / 60);
        if (minutes < 60) return `${minutes} 分 ${whole % 60} 秒`;
        return `${count(Math.floor(minutes / 60))} 小时 ${minutes % 60} 分`;
    },
    title: "Retune 报告",
    skip: "跳到结论",
    sections: "章节",
    footer: "由 Retune 生成。本页是单个文件：不运行脚本，也不加载任何内容。",
    history: "此堆栈的所有版本",
    historyNote: "（位于生成本页的机器上）",
    notice: (text) => (text === huatuoLite.notice ? "演示用途，不是医疗建议：回答可能有误。身体不适请就医。" : text),
    section: {
        verdict: "结论",
        answers: "回答",
        stages: "阶段",
        curves: "曲线",
        metrics: "指标",
        cases: "测试样本",
        dataset: "数据集",
        settings: "训练参数",
        use: "使用模型",
        provenance: "来源",
    },
    model: { base: "基础模型", incumbent: "现任模型", tuned: "微调模型" },
    short: { base: "基础", incumbent: "现任", tuned: "微调" },
    metric: {
        evalLoss: "测试损失",
        bleu4: "BLEU-4",
        rouge1: "ROUGE-1",
        rouge2: "ROUGE-2",
        rougeL: "ROUGE-L",
        judge: "评审",
    },
    inSentence: (name) => name,
    colon: "：",
    comma: "，",
    gap: "",
    clause: "，",
    listed: "、",
    change: { "better": "更好", "worse": "更差", "the same": "相同", "unsure": "可能是偶然" },

    decision: { accepted: "通过", refused: "被拒绝", overridden: "未达标，由人工放行", ungated: "未设门槛" },
    inShort: { accepted: "通过", refused: "被拒绝", overridden: "人工放行", ungated: "无门槛" },
    decided: {
        accepted: "门槛条件全部满足，此模型现在是堆栈的模型。",
        refused: "有门槛条件未满足：堆栈仍使用之前的模型，被拒绝的模型保留在存储中。",
        overridden: "有门槛条件未满足，但有人放行了此模型。",
        ungated: "没有设置任何条件，此模型现在是堆栈的模型。",
    },
    decidedFirst: "有门槛条件未满足，堆栈还没有模型。被拒绝的模型保留在存储中。",
    reason: "放行理由",
    conditions: "门槛条件",
    holds: "满足",
    fails: "未满足",
    against: (metric, tuned, other, whose) => {
        const of = { base: "基础模型为", incumbent: "现任模型为", threshold: "界限为" }[whose];
        return `${metric} ${tuned}，${of} ${other}`;
    },
    perTunedToken: "（按微调模型的词元计）",
    between: (low, high, percent) => `差值在 ${low} 与 ${high} 之间（置信度 ${percent}%）`,
    noIncumbent: (metric) => `${metric}：还没有现任模型可比较`,
    condition: ({ finding, metric, against, tuned, other }) => {
        const name = metric === undefined ? "" : chinese.metric[metric];
        const shown = (value: number | null): string =>
            value === null ? "未知" : value.toFixed(metric === "evalLoss" ? 4 : 2);
        switch (finding.kind) {
            case "compared": {
                const { gain, allowed } = finding;
                const values = chinese.against(
                    name,
                    shown(tuned),
                    shown(other),
                    against === "phrase" ? "threshold" : against,
                );
                const compared = finding.perTunedToken === true ? `${values}${chinese.perTunedToken}` : values;
                if (Number(shown(gain)) === 0) return `${compared}：相同`;
                const by = `${gain < 0 ? "更差，相差" : "更好，相差"} ${shown(Math.abs(gain))}`;
                return `${compared}：${by}${gain < 0 && against !== "threshold" ? `，允许 ${allowed}` : ""}`;
            }
            case "first":
                return chinese.noIncumbent(name);
            case "broken":
                return `微调模型的${name}在 ${count(finding.of)} 行中有 ${count(finding.rows)} 行不是数值`;
            case "unmeasured":
                return `${name}：没有可以测量的测试数据`;
            case "phrase": {
                const { prompt, phrase, says, forbidden } = finding;
                const required = forbidden ? "不得包含" : "必须包含";
                return `对“${prompt}”的回答${says ? "包含" : "不包含"}“${phrase}”（${required}）`;
            }
            case "silent":
                return `微调模型对 ${count(finding.questions)} 个问题都没有回答任何内容`;
        }
    },
    warning: (one, conditions) => {
        switch (one.kind) {
            case "fewRows":
                return `${
                    one.metric === undefined ? "测试数据只有" : `${chinese.metric[one.metric]} 只测量了`
                } ${count(one.rows)} 行，少于 ${count(one.least)} 行：结论可能是偶然`;
            case "chance": {
                const condition = conditions[one.condition];
                const sure = `可能是偶然（置信度 ${Math.round(one.certainty * 100)}%）`;
                return condition === undefined ? sure : `${sure}：${chinese.condition(condition)}`;
            }
            case "leftOut": {
                const left = `${chinese.metric[one.metric]}与${chinese.model[one.against]}的比较略去了 ${count(one.of)} 行中的 ${count(one.rows)} 行`;
                return `${left}：两个模型中只有一个在这些行有数值`;
            }
            case "known":
                return `${count(one.of)} 行测试数据中有 ${count(one.rows)} 行属于现任模型的训练数据，它可能已记住这些问题：要公平比较，请恢复原来的 dataset.split；若新模型只是不如现任模型，可用 gate.override 接受它`;
            case "empty":
                return `微调模型的 ${count(one.of)} 个回答中有 ${count(one.answers)} 个为空`;
            case "nothingHeldOut":
                return "dataset.split.test 为 0，因此没有门槛：更差的模型也会通过";
        }
    },
    compared: (result, other) => {
        const model = other === "base" ? "基础模型" : "现任模型";
        switch (result) {
            case "better":
                return `优于${model}`;
            case "worse":
                return `不如${model}`;
            case "mixed":
                return `与${model}相比，有的指标更好，有的更差`;
            case "same":
                return `与${model}相同`;
        }
    },
    notMeasured: "未测量",
    nothingHeldOut: "没有留出测试数据。",
    readInstead: "请阅读下面的回答。",
    baseToTuned: "基础 → 微调",

    trainingLoss: "训练损失",
    afterSteps: (steps) => `${count(steps)} 步之后`,
    firstToLast: (steps) => `首步 → 末步，共 ${count(steps)} 步`,
    thisUpdate: "本次更新",
    workIn: (some, all) => `${all} 个阶段中有 ${some} 个运行`,
    nothingToDo: "无需运行",
    allThere: "所有结果都已存在",
    cost: "费用",
    costNote: "本次更新，按目标机器的价格",
    spent: "累计费用",
    spentNote: (budget) => `美元，该堆栈所有机器的全部开机时间${budget === undefined ? "" : `，预算 ${budget}`}`,
    files: (number) => `${count(number)} 个文件`,

    noStages: "没有阶段。",
    kind: (kind) => KINDS[kind] ?? kind,
    graph: "本次更新做了什么，以及先后顺序",
    action: {
        ran: "已运行",
        cached: "取自缓存",
        attached: "接续运行",
        unchanged: "未变",
        refused: "被拒绝",
        failed: "失败",
        skipped: "跳过",
    },
    took: {
        ran: (time) => `本次更新用时${spaced(time)}`,
        cached: (time) => `沿用较早一次运行的结果，当时用时${spaced(time)}`,
        attached: (time) => `接续一次进行中的运行，用时${spaced(time)}`,
        unchanged: (time) => `所依赖的内容都没有变化；当时用时${spaced(time)}`,
        refused: (time) => `用时${spaced(time)}；模型被门槛拒绝`,
        failed: () => "失败",
        skipped: () => "模型被拒绝，因此没有运行",
    },
    served: {
        ran: (time) => `用时${spaced(time)} 后开始提供此模型`,
        attached: () => "提供此模型，启动早已在进行",
        unchanged: () => "继续提供服务，所依赖的内容都没有变化",
        failed: () => "模型未能启动",
        skipped: () => "模型被拒绝，因此保持原样",
    },
    servedAt: (command) => `API 的地址和密钥：${command}`,
    expected: (time) => `；预计 ${time}`,
    costs: (amount) => `，费用 ${amount}`,
    stop: "。",
    why: "原因：",
    isNew: "堆栈中新增。",
    run: "运行",
    finished: "完成于",
    on: "机器",
    digest: "摘要",
    driver: "驱动",
    cpus: (number) => `${count(number)} 个 CPU`,

    noLosses: "没有记录损失。",
    loss: "损失",
    ofTraining: "训练",
    ofValidation: "验证",
    ofIncumbent: "现任模型的训练",
    ofIncumbentValidation: "现任模型的验证",
    validationLoss: "验证损失",
    incumbentLoss: "现任模型的训练损失",
    incumbentValidation: "现任模型的验证损失",
    learningRate: "学习率",
    incumbentRate: "现任模型的学习率",
    step: "步",
    lowest: (step, loss) => `验证损失在第 ${count(step)} 步最低：${loss}。`,
    noValidation: "没有验证数据，因此没有验证损失。",
    lost: (steps, time) => `训练曾中断：最后一个检查点之后的 ${count(steps)} 步（${time}）丢失并重做。`,
    nothingLost: "训练曾中断，没有丢失任何一步。",
    resumed: (step) => `它从第 ${count(step)} 步的检查点继续。`,
    atStep: (name, value, step) => `${name}：第 ${count(step)} 步为 ${value}。`,
    fromTo: (name, first, from, last, to) =>
        `${name}：从第 ${count(from)} 步的 ${first} 到第 ${count(to)} 步的 ${last}。`,
    numbers: "图中的数值",
    everyStep: "全部已记录的步。",
    someSteps: (some, all) => `${count(all)} 个已记录的步中的 ${count(some)} 个。`,
    columns: { step: "步" },

    noHeldOut: "没有测试数据，因此没有评分。",
    measured: (rows, answers) => `损失基于 ${count(rows)} 行测试数据，分数基于 ${count(answers)} 个回答。`,
    few: "数量太少，差异可能是偶然。",
    measure: "指标",
    difference: (to, alone) => (alone ? "差值" : to === "base" ? "与基础相比" : "与现任相比"),
    explained:
        "损失：参考答案每个词元的平均交叉熵，越低越好。BLEU（按字符）与 ROUGE（F 值，按词）把回答与参考答案相比，以百分数表示，越高越好。",
    interval: "括号中是置信度为 95% 的差值区间（对测试数据做配对自助抽样）。区间含 0 时，差异可能是偶然。",
    noPrompts: "没有设置固定问题。",
    notAsked: "（未提问）",
    cutOff: "被截断：达到了新词元的上限。",
    noCases: "没有回答任何测试问题。",
    worstFirst: (than) =>
        `最差的在前。数字是微调模型回答的 ROUGE-L，以及与${than === "base" ? "基础模型" : "现任模型"}的差值。`,
    filter: "显示",
    show: { all: "全部", worse: "更差", better: "更好", cut: "被截断", empty: "空回答" },
    question: "问题",
    reference: "参考答案",
    leftOut: (number) => `为控制页面大小，省略了 ${count(number)} 个样本；report.json 中有全部内容。`,
    emptyText: "（空）",
    moreCharacters: (number) => `……还有 ${count(number)} 个字符。`,

    sourceToRows: "从原始数据到保留的行",
    rows: "行",
    number: "数量",
    share: "占比",
    percent: (share) => `${(share * 100).toFixed(1)}%`,
    read: "读取",
    dropped: "丢弃：",
    dropReason: (reason) => {
        const said: readonly (readonly [RegExp, string])[] = [
            [/^empty (.+)$/, "$1 为空"],
            [/^missing (.+)$/, "缺少 $1"],
            [/^duplicate$/, "重复"],
            [/^duplicate (.+)$/, "$1 重复"],
            [/^(.+) below (\S+)$/, "$1 低于 $2"],
            [/^(.+) above (\S+)$/, "$1 高于 $2"],
            [/^(.+) not a number$/, "$1 不是数值"],
            [/^(.+) not listed$/, "$1 不在允许的值中"],
        ];
        const [pattern, text] = said.find(([one]) => one.test(reason)) ?? [];
        return pattern === undefined || text === undefined ? reason : reason.replace(pattern, text);
    },
    kept: "保留",
    rowsAreFor: "各部分的行数",
    train: "训练",
    validation: "验证",
    test: "测试（留出）",
    characters: "问题与回答的字符数",
    half: "一半的行不超过",
    most: "95% 的行不超过",
    longest: "最长的一行",
    tokens: (looked) => `前 ${count(looked)} 行训练数据的词元数`,
    cutoff: "训练的截断长度",
    overCutoff: "超长而被截断",
    found: "在数据中发现",
    nothingFound: "数据中没有发现问题。",
    finding: {
        leaks: "留作验证或测试，但所问与另一部分的行几乎相同",
        duplicates: "与前面的行相同",
        nearDuplicates: "所问与前面的行几乎相同",
        emptyAnswers: "回答中没有字母或数字",
        oneWordAnswers: "回答只有一个词，或一两个汉字",
        otherScript: "问题或回答主要使用了配方语言以外的文字",
        overCutoff: "估计超过 training.cutoffLength（每个汉字一个词元，其他每四个字符一个）",
        mobileNumbers: "含有疑似中国手机号",
        identityNumbers: "含有疑似中国身份证号",
        emailAddresses: "含有电子邮箱地址",
    },
    rowsThat: (meaning, rows) => `${meaning}：${count(rows)} 行`,
    foundAt: (text) =>
        text
            .replace(
                /^row (\d+) \((\w+)\) and row (\d+) \((\w+)\), (\d+) % alike: (".*") and (".*")$/s,
                (_, one: string, part: string, two: string, other: string, alike: string, a: string, b: string) =>
                    `第 ${one} 行（${chinesePart(part)}）与第 ${two} 行（${chinesePart(other)}），相似度 ${alike}%：${a} 与 ${b}`,
            )
            .replace(/^row (\d+) is row (\d+) again$/, "第 $1 行与第 $2 行相同")
            .replace(/^row (\d+): /, "第 $1 行："),
    examples: "训练数据示例",
    answer: "回答",

    noSettings: "没有设置参数。",
    refusedModel: {
        incumbent: "模型被拒绝，因此没有导出。堆栈仍使用之前的模型；被拒绝的适配器在这里：",
        base: "模型被拒绝，因此没有导出，堆栈还没有模型。被拒绝的适配器在这里：",
    },
    parityNone: "没有需要合并的适配器，因此没有比较回答。",
    parity: (equal, checked) =>
        equal === checked
            ? `合并后的模型对全部 ${checked} 个问题的回答与“基础模型 + 适配器”完全一致。`
            : `合并后的模型对 ${checked} 个问题中的 ${equal} 个的回答与“基础模型 + 适配器”完全一致（半精度下，仅舍入就可能改变一个词元）。`,
    logits: (share) => `logits 最多相差最大值的 ${share}。`,
    tensors: (number) => `其 ${number} 个张量与训练所得一致。`,
    inChat: "在终端中对话（加 --compare 可同时与基础模型对话）：",
    inWebUi: "在浏览器中使用 LLaMA-Factory 的 Web UI：",
    talkToBoth: { incumbent: "与它对话，并同时与堆栈的模型对话：", base: "与它对话，并同时与基础模型对话：" },
    notServed: (stack) => `作为兼容 OpenAI 的 API，在 Pulumi.${stack}.yaml 中设置 retune:service: { enabled: true }：`,
    asApi: "作为兼容 OpenAI 的 API：",
    tryAgain: "服务未能用此模型启动，原因见上面的服务阶段。排除原因后，用下面的命令启动：",
    servesOn: "服务未能用此模型启动，之前的模型继续提供服务。",
    servedAs: (address) => `位于堆栈目标机器的 ${address}。在保存堆栈的机器上，下面的命令给出地址和密钥文件：`,
    thenAsk: "然后用这两者提问：",
    servedHere: (address) => `位于生成本页的机器上的 ${address}，密钥在那里的一个文件中：`,
    inPython: "在 Python 中使用 transformers：",
    inTerminal: "在终端中使用 LLaMA-Factory：",
    check: "检查所有文件是否保持原样：",
    everything: "模型的全部来源（JSON）",
    restOfProvenance: "其余内容在模型旁边的 retune.json 中。",
    digests: "摘要",
    stage: "阶段",

    generation: "版本",
    generations: (stack) => `${stack} 的各个版本`,
    historyIntro: "每次有变化的更新一行，最新的在前。",
    made: "时间",
    result: "结论",
    changed: "变化",
    nothingChanged: "与之前相同",
    firstOfAll: "第一个版本",
    metricsOverTime: "各微调模型的测试损失（包括被拒绝的）",
};
