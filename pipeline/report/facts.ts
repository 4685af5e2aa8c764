import { FINDINGS } from "../../datasets/quality";
import { leaves } from "../identity";
import { quote } from "../shell";
import type { ReportData } from "./data";
import { bytes } from "./format";
import { html, type Html } from "./html";
import { clipped, clippedToBytes, inline, quoted } from "./text";
import { wordsOf, type Words } from "./words";

export function datasetFacts({ dataset, language }: ReportData): Html {
    const words = wordsOf(language);
    const { count } = words;
    const { scanned, kept, rows, characters, tokens } = dataset;
    const dropped = Object.entries(dataset.dropped)
        .filter(([, number]) => number > 0)
        .sort(([, a], [, b]) => b - a);
    const row = (name: Html, number: number): Html =>
        html`<tr>
            <th scope="row">${name}</th>
            <td>${count(number)}</td>
            <td>${words.percent(number / Math.max(scanned, 1))}</td>
        </tr>`;
    return html`<div class="columns">
            <div>
                <table class="numbers">
                    <caption>
                        ${words.sourceToRows}
                    </caption>
                    <thead>
                        <tr>
                            <th scope="col">${words.rows}</th>
                            <th scope="col">${words.number}</th>
                            <th scope="col">${words.share}</th>
                        </tr>
                    </thead>
                    <tbody>
                        ${row(html`${words.read}`, scanned)}
                        ${dropped.map(([reason, number]) =>
                            row(html`${words.dropped}${words.gap}${inline(words.dropReason(reason))}`, number),
                        )}
                        ${row(html`<strong>${words.kept}</strong>`, kept)}
                    </tbody>
                </table>
                ${
                    tokens &&
                    pairs(words.tokens(tokens.lookedAt), [
                        [words.longest, count(tokens.longest)],
                        [words.cutoff, count(tokens.cutoff)],
                        [words.overCutoff, words.percent(tokens.shareCutOff)],
                    ])
                }
            </div>
            <div>
                ${pairs(words.rowsAreFor, [
                    [words.train, count(rows.train)],
                    [words.validation, count(rows.validation)],
                    [words.test, count(rows.test)],
                ])}
                ${pairs(words.characters, [
                    [words.half, count(characters.p50)],
                    [words.most, count(characters.p95)],
                    [words.longest, count(characters.max)],
                ])}
            </div>
        </div>
        ${quality(dataset.quality, words)} ${examples(dataset.examples, words)}`;
}

/** What was found in the rows, with the first of them; personal data is masked where it is found. */
function quality(found: ReportData["dataset"]["quality"], words: Words): Html | undefined {
    if (found === undefined) return undefined;
    const present = FINDINGS.flatMap((name) => {
        const finding = found[name];
        return finding === undefined || finding === null || finding.rows === 0 ? [] : [{ name, ...finding }];
    });
    if (present.length === 0) return html`<p>${words.nothingFound}</p>`;
    return html`<h3>${words.found}</h3>
        <ul class="found">
            ${present.map(
                ({ name, rows, examples }) =>
                    html`<li>
                        ${words.rowsThat(words.finding[name], rows)}
                        <ul class="muted">
                            ${examples.map((example) => html`<li>${inline(words.foundAt(example))}</li>`)}
                        </ul>
                    </li>`,
            )}
        </ul>`;
}

function examples(all: ReportData["dataset"]["examples"], words: Words): Html | undefined {
    if (all.length === 0) return undefined;
    const one = ({ input, output }: (typeof all)[number]): Html =>
        html`<div class="example">
            <p class="who">${words.question}</p>
            ${quoted(input, words)}
            <p class="who">${words.answer}</p>
            ${quoted(output, words)}
        </div>`;
    return html`<details>
        <summary>${words.examples}</summary>
        ${all.map(one)}
    </details>`;
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

export function settingsTable({ settings, language }: ReportData): Html {
    // What was left to LLaMA-Factory is null.
    const all = [...leaves(settings)].filter(([, value]) => value !== null);
    if (all.length === 0) return html`<p>${wordsOf(language).noSettings}</p>`;
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

export function usage(data: ReportData): Html {
    const words = wordsOf(data.language);
    const { exported } = data;
    const stack = `--stack ${named(data.stack)}`;
    if (exported === undefined) {
        const other = data.hasModel === false ? "base" : "incumbent";
        return html`<p>${words.refusedModel[other]}</p>
            <p><code class="path">${data.trained}</code></p>
            <h3>${words.talkToBoth[other]}</h3>
            <pre><code>npm run chat -- ${stack} --compare ${other}</code></pre>`;
    }
    const { folder, files, bytes: size, parity } = exported;
    return html`<p><code class="path">${folder}</code></p>
        <p>
            ${[`${words.files(files)}${words.comma}${bytes(size)}${words.stop}`, ...parityTexts(parity, words)].join(words.gap)}
        </p>
        <h3>${words.inChat}</h3>
        <pre><code>npm run chat -- ${stack}</code></pre>
        <h3>${words.inWebUi}</h3>
        <pre><code>npm run webui -- ${stack}</code></pre>
        ${api(data)}
        <h3>${words.inTerminal}</h3>
        <pre><code>${chat(exported)}</code></pre>
        <h3>${words.inPython}</h3>
        <pre><code>${snippet(data, exported)}</code></pre>
        <h3>${words.check}</h3>
        <pre><code>cd ${quote(folder)} && sha256sum -c SHA256SUMS</code></pre>`;
}

function api({ stack, stages, service, tuned, exported, language }: ReportData): Html {
    const words = wordsOf(language);
    const hasFailed = stages.some(({ kind, action }) => kind === "Service" && action === "failed");
    if (service === undefined) {
        return html`<h3>${hasFailed ? words.asApi : words.notServed(stack)}</h3>
            ${hasFailed ? html`<p>${words.tryAgain}</p>` : undefined}
            <pre><code>npm run up -- --stack ${named(stack)}</code></pre>`;
    }
    const which = hasFailed ? html`<p>${words.servesOn}</p>` : undefined;
    const content = questionOf(tuned, exported?.instruction ?? "");
    const request = JSON.stringify({ model: "retune", messages: [{ role: "user", content }] });
    const ask = (address: string, keyFile: string): Html =>
        html`<pre><code>curl ${address}/chat/completions -H "Authorization: Bearer $(cat ${keyFile})" -H 'Content-Type: application/json' -d ${quote(request)}</code></pre>`;
    if (service.keyFile !== undefined) {
        return html`<h3>${words.asApi}</h3>
            ${which}
            <p>${words.servedHere(service.address)}</p>
            ${ask(service.address, quote(service.keyFile))}`;
    }
    return html`<h3>${words.asApi}</h3>
        ${which}
        <p>${words.servedAs(service.address)}</p>
        <pre><code>npm run api -- --stack ${named(stack)}</code></pre>
        <p>${words.thenAsk}</p>
        ${ask("ADDRESS", "KEYFILE")}`;
}

/** The name of a stack in a command. */
export function named(stack: string): string {
    return /^[\w.-]+$/.test(stack) ? stack : quote(stack);
}

/** The first of the fixed prompts, put as the rows of the data set are. */
function questionOf(tuned: ReportData["tuned"], instruction: string): string {
    const question = tuned.prompts[0]?.prompt ?? "Hello";
    return instruction === "" ? question : `${instruction}\n${question}`;
}

type Exported = NonNullable<ReportData["exported"]>;

function parityTexts({ checked, equal = checked, logits, tensors }: Exported["parity"], words: Words): string[] {
    const share = logits === undefined ? [] : [words.logits(`${Number((100 * logits).toPrecision(2))} %`)];
    return [
        ...(checked === 0 ? [words.parityNone] : [words.parity(equal, checked), ...share]),
        ...(tensors === undefined ? [] : [words.tensors(tensors)]),
    ];
}

function chat({ folder, template, enableThinking }: Exported): string {
    const thinking = enableThinking === undefined ? "" : ` --enable_thinking ${String(enableThinking)}`;
    return `llamafactory-cli chat --model_name_or_path ${quote(folder)} --template ${quote(template)}${thinking}`;
}

function snippet({ tuned }: ReportData, { folder, instruction, enableThinking }: Exported): string {
    const content = questionOf(tuned, instruction);
    const thinking = enableThinking === false ? "\n    enable_thinking=False," : "";
    // Every string of JSON is one of Python.
    return `from transformers import AutoModelForCausalLM, AutoTokenizer

folder = ${JSON.stringify(folder)}
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

const PROVENANCE_BYTES = 50_000;

/** Every result by its full digest, and the manifest that is in the model. */
export function provenance({ stages, provenance: manifest, language }: ReportData): Html {
    const words = wordsOf(language);
    const json = JSON.stringify(manifest, undefined, 2);
    const shown = clippedToBytes(json, PROVENANCE_BYTES);
    const rows = stages.flatMap(({ name, made }) =>
        made === undefined
            ? []
            : [
                  html`<tr>
                      <th scope="row">${inline(name)}</th>
                      <td><code>${made.digest}</code></td>
                  </tr>`,
              ],
    );
    return html`<table class="digests">
            <caption>
                ${words.digests}
            </caption>
            <thead>
                <tr>
                    <th scope="col">${words.stage}</th>
                    <th scope="col">SHA-256</th>
                </tr>
            </thead>
            <tbody>
                ${rows}
            </tbody>
        </table>
        ${
            Object.keys(manifest).length === 0
                ? undefined
                : html`<details>
                      <summary>${words.everything}</summary>
                      <pre><code>${shown}</code></pre>
                      ${shown.length < json.length ? html`<p class="muted">${words.restOfProvenance}</p>` : undefined}
                  </details>`
        }`;
}
