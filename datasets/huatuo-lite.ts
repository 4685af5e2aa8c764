import type { Recipe } from "./recipe";

/**
 * Huatuo26M-Lite as the tutorial converts it: a constant instruction, the question as input, the answer as output, rows
 * without a department label left out. The tutorial's loop replaced `\n\r`; `\r\n` and a lone `\r` are meant as well.
 */
export const huatuoLite: Recipe = {
    name: "huatuo-lite",
    notice: "A demonstration, not medical advice: answers can be wrong. With a complaint, see a doctor.",
    language: "zh",
    instruction: { constant: "请根据患者的问题给出建议" },
    columns: { input: "question", output: "answer" },
    require: ["label", "question", "answer"],
    where: [],
    lineEndings: "lf",
    unicode: "none",
    trim: false,
    deduplicate: false,
};

/** The same schema with English rows, for models that know little Chinese. */
export const huatuoLiteEnglish: Recipe = {
    ...huatuoLite,
    name: "huatuo-lite-english",
    language: "en",
    instruction: { constant: "Give advice on the patient's question." },
};
