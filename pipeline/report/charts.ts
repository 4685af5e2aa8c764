import type { EChartsOption } from "echarts";
import { Html, html } from "./html";

type Point = readonly [step: number, value: number];

export interface Curve {
    /** A variable of style.css, so that the curve follows the reader's colour scheme. */
    readonly color: `var(--${string})`;
    /** Colour alone does not tell two curves apart. */
    readonly line: "solid" | "dashed" | "dotted";
    /** Whether each point is marked, where there are few. */
    readonly marked?: boolean;
    readonly points: readonly Point[];
}

export interface Chart {
    /** What the picture shows, in words, for those who do not see it. */
    readonly description: string;
    readonly height: number;
    /** What the horizontal axis counts. */
    readonly axis: string;
    /** Where it begins; 0 unless it says so. */
    readonly from?: number;
    readonly curves: readonly Curve[];
    readonly format: (value: number) => string;
}

/**
 * A chart as SVG, drawn twice: shrinking the wide one to a phone would shrink its letters too. style.css shows the one
 * that fits.
 */
export async function drawChart(chart: Chart): Promise<Html> {
    // Half of what the whole page costs, and only the page needs it.
    const { init } = await import("echarts");
    const draw = (width: number, className: string): Html => {
        const instance = init(null, null, { renderer: "svg", ssr: true, width, height: chart.height });
        try {
            instance.setOption(options(chart));
            return html`<div class="${className}">
                ${asPartOfPage(instance.renderToSVGString({ useViewBox: true }))}
            </div>`;
        } finally {
            instance.dispose();
        }
    };
    return html`<div class="chart" role="img" aria-label="${chart.description}">
        ${draw(1000, "wide")}${draw(350, "narrow")}
    </div>`;
}

function options({ curves, format, height, axis: name, from = 0 }: Chart): EChartsOption {
    const label = { color: "var(--muted)", fontFamily: "inherit", fontSize: 12 };
    const axis = {
        type: "value",
        silent: true,
        axisLabel: label,
        axisTick: { show: false },
        splitLine: { show: false },
    } as const;
    return {
        animation: false,
        grid: { left: 52, right: 16, top: 12, bottom: 40 },
        xAxis: {
            ...axis,
            min: from,
            minInterval: 1,
            name,
            nameLocation: "middle",
            nameGap: 26,
            nameTextStyle: label,
            axisLine: { lineStyle: { color: "var(--line)" } },
        },
        yAxis: {
            ...axis,
            scale: true,
            splitNumber: Math.round(height / 70),
            axisLine: { show: false },
            axisLabel: { ...label, formatter: format },
            splitLine: { lineStyle: { color: "var(--line)" } },
        },
        series: curves.map(({ color, line, marked = false, points }) => ({
            type: "line",
            silent: true,
            // Of thousands of steps, as many as there are pixels, with the peaks kept.
            sampling: "lttb",
            // A line needs two points; a single one would be invisible.
            showSymbol: points.length === 1 || (marked && points.length <= 50),
            symbol: marked ? "rect" : "circle",
            symbolSize: 6,
            itemStyle: { color },
            lineStyle: {
                color,
                type: { solid: "solid", dashed: [6, 4], dotted: [2, 3] }[line] as "solid" | number[],
                // Many noisy steps are a band that would hide the curve on it.
                ...(points.length > 500 && curves.length > 1 ? { width: 1, opacity: 0.6 } : { width: 2 }),
            },
            data: points.map(([step, value]) => [step, value]),
        })),
    };
}

/** Without what only a file of its own needs, styles for hovering over a still picture, and clipping by ids that grow. */
function asPartOfPage(svg: string): Html {
    const inner = svg
        .replace(/<(style|defs)[\s\S]*?<\/\1>/g, "")
        .replace(/ (?:xmlns(?::xlink)?|version|baseProfile|class|pointer-events|clip-path|ecmeta_\w+)="[^"]*"/g, "")
        .replace(/ width="\d+" height="\d+"(?= viewBox)/, "")
        .replace(/\n+/g, "");
    return new Html(inner);
}
