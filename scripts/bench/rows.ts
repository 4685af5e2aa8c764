import * as fs from "node:fs";
import { randomNumbers } from "./random";

/*
 * Rows with the fields of Huatuo26M-Lite and what matters of its statistics: question and answer of 80 and 150
 * characters on average (log-normal), every twentieth row without a label, and what a converter has to look at: line
 * ends, quotes, backslashes.
 */

const DEPARTMENTS = ["内科", "外科", "儿科", "妇产科", "皮肤科", "眼科", "口腔科", "中医科"];
const SPREAD = 0.5;

/** Writes rows as JSON Lines: about 760 bytes each. */
export function writeRows(file: string, count: number, seed: number): void {
    const next = randomNumbers(seed);
    const chance = (share: number) => next() < share;
    // Texts are slices of one long text: a number for every single character would take longer than the conversion.
    const common = Array.from({ length: 200_000 }, () => String.fromCharCode(0x4e00 + Math.floor(next() * 3000)));
    const text = common.map((one, index) => (index % 17 === 16 ? "，" : one)).join("");

    const length = (mean: number): number => {
        const normal = Math.sqrt(-2 * Math.log(1 - next())) * Math.cos(2 * Math.PI * next());
        return Math.max(4, Math.round(mean * Math.exp(SPREAD * normal - SPREAD ** 2 / 2)));
    };
    const passage = (mean: number): string => {
        const size = length(mean);
        const from = Math.floor(next() * (text.length - size));
        const plain = text.slice(from, from + size);
        const into = (what: string) => `${plain.slice(0, size / 2)}${what}${plain.slice(size / 2)}`;
        if (chance(0.05)) return into("\n\r");
        if (chance(0.02)) return into("\\n");
        return chance(0.03) ? `"${plain}"` : plain;
    };

    const handle = fs.openSync(file, "w");
    try {
        for (let row = 0; row < count;) {
            const block: string[] = [];
            for (; block.length < 5000 && row < count; row += 1) {
                block.push(
                    JSON.stringify({
                        id: row,
                        question: passage(79.5),
                        answer: passage(149.7),
                        label: chance(0.05) ? "" : DEPARTMENTS[Math.floor(next() * DEPARTMENTS.length)],
                        related_diseases: text.slice(row % 1000, (row % 1000) + 5),
                        score: 1 + Math.floor(next() * 5),
                    }),
                );
            }
            fs.writeSync(handle, `${block.join("\n")}\n`);
        }
    } finally {
        fs.closeSync(handle);
    }
}
