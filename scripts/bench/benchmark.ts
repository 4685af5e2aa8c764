import { median, type Measured } from "./result";
import type { Workplace } from "./workplace";

export interface Benchmark {
    readonly name: string;
    readonly what: string;
    readonly run: (place: Workplace, runs: number) => Promise<Measured>;
}

/** A measurement of one of the sides; answers seconds. */
export type Sample = () => Promise<number>;

/**
 * Takes samples of both sides in turns, so that what else the machine does meets both alike. The first of each is not
 * counted: it finds cold caches.
 */
export async function sideBySide(place: Workplace, runs: number, ours: Sample, peer: Sample | undefined) {
    const samples = { ours: [] as number[], peer: [] as number[] };
    await ours();
    await peer?.();
    for (let run = 0; run < runs; run += 1) {
        // Each side is the first one in every other round.
        for (const side of run % 2 === 0 ? (["ours", "peer"] as const) : (["peer", "ours"] as const)) {
            const sample = side === "ours" ? ours : peer;
            if (sample !== undefined) samples[side].push(await sample());
        }
        place.say(`  ${run + 1}/${runs}`);
    }
    return {
        samples,
        ours: median(samples.ours),
        peer: samples.peer.length === 0 ? undefined : median(samples.peer),
    };
}
