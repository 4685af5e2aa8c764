import { describe, expect, test } from "vitest";
import { SideBySide, visible } from "../../scripts/side-by-side";

describe("two texts side by side", () => {
    test("print a line when both have come so far, cut between words", () => {
        const page = new SideBySide(["base", "tuned"], 24);
        expect(page.head()).toBe("base       │ tuned\n────────── │ ──────────\n");
        expect(page.add(0, "one two three four")).toBe("");
        expect(page.end(0, "")).toBe("");
        expect(page.add(1, "eins ")).toBe("");
        expect(page.add(1, "zwei drei")).toBe("one two    │ eins zwei\n");
        expect(page.end(1, " …")).toBe("three four │ drei …\n");
    });

    test("count wide characters as two columns, and cut where there are no words", () => {
        const page = new SideBySide(["base", "tuned"], 24);
        page.end(0, "感冒了应该怎么办");
        expect(page.end(1, "aaaaaaaaaaaa")).toBe("感冒了应该 │ aaaaaaaaaa\n怎么办     │ aa\n");
    });

    test("keep empty lines, and go on when one has ended before the other", () => {
        const page = new SideBySide(["base", "tuned"], 24);
        page.end(0, "");
        expect(page.end(1, "a\n\nb")).toBe("           │ a\n           │\n           │ b\n");
    });

    test("have nothing in them that moves the cursor", () => {
        expect(visible("a\u001b[2Jb\rc\td\ne\u0007\u009b感🙂")).toBe("a[2Jbc    d\ne感🙂");
    });
});
