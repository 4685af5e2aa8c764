import { duration } from "./duration";

/** How far a run is, as far as it has said. */
export interface Progress {
    /** What it does, such as "learning". */
    readonly phase: string;
    readonly step: number;
    readonly steps: number;
    readonly loss?: number | undefined;
    /** The newest one, of a training that is validated on the way. */
    readonly evalLoss?: number | undefined;
    readonly secondsLeft?: number | undefined;
    /** What the run has cost so far, in the money of the target's price. */
    readonly cost?: number | undefined;
}

/** The engine carries text: `learning, step 33/60 (55 %), loss 2.4737, validation loss 2.5120, 50 s left, cost 0.12`. */
export function describeProgress({ phase, step, steps, loss, evalLoss, secondsLeft, cost }: Progress): string {
    return [
        `${phase}, step ${step}/${steps} (${percent(step, steps)} %)`,
        ...(loss === undefined ? [] : [`loss ${loss.toFixed(4)}`]),
        ...(evalLoss === undefined ? [] : [`validation loss ${evalLoss.toFixed(4)}`]),
        ...(secondsLeft === undefined ? [] : [`${duration(secondsLeft)} left`]),
        ...(cost === undefined ? [] : [`cost ${cost.toFixed(2)}`]),
    ].join(", ");
}

export function percent(step: number, steps: number): number {
    return Math.round((100 * step) / Math.max(steps, 1));
}

/** What such a text says, each part as it is written there; undefined for any other text. */
export function readProgress(text: string) {
    const found =
        /^(?<phase>[a-z -]+), step (?<step>\d+)\/(?<steps>\d+) \(\d+ %\)(?:, loss (?<loss>[^,]+))?(?:, validation loss (?<evalLoss>[^,]+))?(?:, (?<left>[^,]+ left))?(?:, cost (?<cost>[^,]+))?$/.exec(
            text,
        )?.groups;
    if (found === undefined) return undefined;
    const { phase = "", step, steps, loss, evalLoss, left, cost } = found;
    return { phase, step: Number(step), steps: Number(steps), loss, evalLoss, left, cost };
}

const BARS = "▁▂▃▄▅▆▇█";

/** The course of some numbers in at most so many characters: of each, the mean of its share of them. */
export function sparkline(values: readonly number[], width: number): string {
    const finite = values.filter(Number.isFinite);
    const columns = Math.min(width, finite.length);
    const means = Array.from({ length: columns }, (_, column) => {
        const share = finite.slice(
            Math.floor((column * finite.length) / columns),
            Math.floor(((column + 1) * finite.length) / columns),
        );
        return share.reduce((sum, one) => sum + one, 0) / share.length;
    });
    const [low, high] = [Math.min(...means), Math.max(...means)];
    const bar = (value: number): string => {
        const height = high > low ? (value - low) / (high - low) : 0.5;
        return BARS[Math.min(BARS.length - 1, Math.floor(height * BARS.length))] ?? "";
    };
    return means.map(bar).join("");
}
