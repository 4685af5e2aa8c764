// The report in a real browser: wide and narrow, light and dark, by keyboard, in both languages, with hostile data.
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { ReportData } from "../../pipeline/report/data";
import { renderReport } from "../../pipeline/report/render";
import { Browser, chromium } from "./chromium";
import { data, hostile, refused, served } from "./report-data";

if (chromium === undefined) console.warn("SKIPPED: the report is opened in no browser: there is no chromium here");

describe.skipIf(chromium === undefined)("the report in Chromium", { timeout: 60_000 }, () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), "retune-report-"));
    let browser: Browser;

    beforeAll(() => {
        browser = new Browser(chromium ?? "");
    });

    afterAll(async () => {
        await browser.close();
        fs.rmSync(folder, { recursive: true });
    });

    async function pageOf(one: ReportData): Promise<string> {
        const file = path.join(folder, "report.html");
        fs.writeFileSync(file, await renderReport(one));
        return file;
    }

    const nothing = { complaints: [], requests: [], findings: [], overflow: 0 };

    test.each([
        ["accepted", data, 1280, "light"],
        ["served", served, 390, "dark"],
        ["refused", refused, 390, "light"],
        ["refused", refused, 1280, "dark"],
        ["hostile", hostile, 390, "light"],
        ["hostile", hostile, 1280, "dark"],
        ["Chinese", { ...refused, language: "zh" }, 390, "light"],
    ] as const)(
        "%s, %#: no complaint, no request, no finding, nothing beyond the edge",
        async (_, one, width, scheme) => {
            expect(await browser.open(await pageOf(one), { width, scheme })).toEqual(nothing);
        },
    );

    test("in a narrow window no number runs into the one beside it", async () => {
        await browser.open(await pageOf({ ...refused, language: "zh" }), { width: 390, scheme: "light" });
        const cells = await browser.evaluate<{ text: string; over: number }[]>(
            "[...document.querySelectorAll('.broad tbody :is(th, td)')].map((one) => ({ text: one.innerText, over: one.scrollWidth - one.clientWidth }))",
        );
        expect(cells).toHaveLength(5 * 6);
        expect(cells.filter(({ over }) => over > 0)).toEqual([]);
    });

    test("answers are filtered by the keyboard alone", async () => {
        await browser.open(await pageOf(data), { width: 1280, scheme: "light" });
        const visible = () =>
            browser.evaluate<string[]>(
                "[...document.querySelectorAll('.case')].filter((one) => one.offsetParent !== null).map((one) => one.querySelector('.line').innerText)",
            );
        expect(await visible()).toEqual(["newborn skin looks yellow", "飞蚊症", "胎动减少"]);
        await browser.evaluate("document.querySelector('#show-all').focus()");
        await browser.press("ArrowRight", 39);
        expect(await visible()).toEqual(["newborn skin looks yellow"]);
        await browser.press("ArrowRight", 39);
        expect(await visible()).toEqual(["胎动减少"]);
    });

    test("the first stop of the keyboard leads to the verdict", async () => {
        await browser.open(await pageOf(data), { width: 1280, scheme: "light" });
        await browser.press("Tab", 9);
        expect(await browser.evaluate("document.activeElement.textContent")).toBe("Skip to the verdict");
    });
});
