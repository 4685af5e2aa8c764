import { FINDINGS, MEANINGS } from "../../datasets/quality";
import { leaves } from "../identity";
import type { ReportData } from "./data";
import { bytes, count, plural } from "./format";
import { html, type Html } from "./html";
import { clipped, inline } from "./text";

export function datasetFacts({ dataset }: ReportData): Html {
    const { scanned, kept, rows, characters } = dataset;
    const dropped = Object.entries(dataset.dropped)
        .filter(([, number]) => number > 0)
        .sort(([, a], [, b]) => b - a);
    const share = (number: number): string => `${((number / Math.max(scanned, 1)) * 100).toFixed(1)} %`;
    const reason = ([name, number]: readonly [string, number]): Html =>
        html`<tr>
            <th scope="row">Dropped: ${inline(name)}</th>
            <td>${count(number)}</td>
            <td>${share(number)}</td>
        </tr>`;
    return html`<div class="columns">
            <table class="numbers">
                <caption>
                    From the source to the rows that are kept
                </caption>
                <thead>
                    <tr>
                        <th scope="col">Rows</th>
                        <th scope="col">Number</th>
                        <th scope="col">Share</th>
                    </tr>
                </thead>
                <tbody>
                    <tr>
                        <th scope="row">Read</th>
                        <td>${count(scanned)}</td>
                        <td>${share(scanned)}</td>
                    </tr>
                    ${dropped.map(reason)}
                    <tr>
                        <th scope="row">Kept</th>
                        <td>${count(kept)}</td>
                        <td>${share(kept)}</td>
                    </tr>
                </tbody>
            </table>
            <div>
                ${pairs("What the rows are for", [
                    ["Training", count(rows.train)],
                    ["Validation", count(rows.validation)],
                    ["Test (held out)", count(rows.test)],
                ])}
                ${pairs("Characters of question and answer", [
                    ["Half have at most", count(characters.p50)],
                    ["95 % have at most", count(characters.p95)],
                    ["The longest has", count(characters.max)],
                ])}
            </div>
        </div>
        ${quality(dataset.quality)}`;
}

/** What was found in the rows, with the first of them; personal data is masked where it is found. */
function quality(found: ReportData["dataset"]["quality"]): Html | undefined {
    if (found === undefined) return undefined;
    const present = FINDINGS.filter((finding) => (found[finding]?.rows ?? 0) > 0);
    if (present.length === 0) return html`<p>Nothing was found amiss in the rows.</p>`;
    return html`<h3>Found in the rows</h3>
        <ul>
            ${present.map(
                (finding) =>
                    html`<li>
                        Rows that ${MEANINGS[finding]}: ${count(found[finding]?.rows ?? 0)}
                        <ul class="muted">
                            ${found[finding]?.examples.map((example) => html`<li>${clipped(example, 300)}</li>`)}
                        </ul>
                    </li>`,
            )}
        </ul>`;
}

/** A table of two columns, whose rows explain themselves. */
function pairs(caption: string, rows: readonly (readonly [name: string, value: string])[]): Html {
    return html`<table class="numbers">
        <caption>
            ${caption}
        </caption>
        <tbody>
            ${rows.map(
                ([name, value]) =>
                    html`<tr>
                        <th scope="row">${name}</th>
                        <td>${value}</td>
                    </tr>`,
            )}
        </tbody>
    </table>`;
}

export function settingsTable({ settings }: ReportData): Html {
    const all = [...leaves(settings)];
    if (all.length === 0) return html`<p>No settings were given.</p>`;
    return html`<dl class="settings">
        ${all.map(
            ([name, value]) =>
                html`<div>
                    <dt><code>${clipped(name, 300)}</code></dt>
                    <dd>${inline(typeof value === "string" ? value : JSON.stringify(value))}</dd>
                </div>`,
        )}
    </dl>`;
}

export function exportedModel(data: ReportData): Html {
    const { folder, files, bytes: size, parity } = data.exported;
    return html`<p><code class="path">${folder}</code></p>
        <p>${plural(files, "file")}, ${bytes(size)}. ${parityText(parity)}</p>
        <h3>Use it</h3>
        <p>In Python, with <code>transformers</code>:</p>
        <pre><code>${snippet(data)}</code></pre>
        <p>Check that all files are as they were made:</p>
        <pre><code>cd ${shellQuoted(folder)} && sha256sum -c SHA256SUMS</code></pre>`;
}

function parityText({ checked, equal, logits }: ReportData["exported"]["parity"]): string {
    if (checked === 0) return "There was no adapter to merge or no prompt to ask, so its answers were not compared.";
    const prompts = plural(checked, "prompt");
    const answers =
        equal === undefined || equal === checked
            ? `The merged model answers ${checked === 1 ? "the" : "all"} ${prompts} exactly like base + adapter.`
            : `The merged model answers ${equal} of ${prompts} exactly like base + adapter.`;
    if (logits === undefined) return answers;
    const rounding = "in half precision, rounding alone can change a token";
    return `${answers} Their logits differ by at most ${Number(logits.toPrecision(3))} (${rounding}).`;
}

function snippet({ exported, tuned }: ReportData): string {
    const { instruction = "", enableThinking } = exported.chat ?? {};
    const question = tuned.prompts[0]?.prompt ?? "Hello";
    const content = instruction === "" ? question : `${instruction}\n${question}`;
    const thinking = enableThinking === false ? "\n    enable_thinking=False," : "";
    // Every string of JSON is one of Python.
    return `from transformers import AutoModelForCausalLM, AutoTokenizer

folder = ${JSON.stringify(exported.folder)}
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
messages = [{"role": "user", "content": ${JSON.stringify(content)}}]
inputs = tokenizer.apply_chat_template(
    messages,
    add_generation_prompt=True,
    return_dict=True,
    return_tensors="pt",${thinking}
)
answer = model.generate(**inputs, max_new_tokens=256, do_sample=False)
print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))`;
}

function shellQuoted(text: string): string {
    return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}

const LONGEST_PROVENANCE = 50_000;

export function provenance(data: ReportData): Html {
    const json = JSON.stringify(data.provenance, undefined, 2);
    const shown = clipped(json, LONGEST_PROVENANCE);
    return html`<details>
        <summary>Everything the model was made of, as JSON</summary>
        <pre><code>${shown}</code></pre>
        ${shown.length < json.length ? html`<p class="muted">The rest is in retune.json beside the model.</p>` : undefined}
    </details>`;
}
