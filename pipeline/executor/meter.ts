import * as fs from "node:fs";
import * as path from "node:path";
import { writeJson } from "../store/store";

/** How long a machine was awake in all, as it said itself when it was last asked. */
export interface MeterReading {
    readonly machine: string;
    /** Whose machine it is; one that nobody has made for a stack is nobody's. */
    readonly stack?: string;
    readonly seconds: number;
    readonly pricePerHour: number;
    readonly budget?: number;
    /** Seconds since 1970. */
    readonly at: number;
}

export function costOf({ seconds, pricePerHour }: Pick<MeterReading, "seconds" | "pricePerHour">): number {
    return (seconds / 3600) * pricePerHour;
}

export async function noteReading(home: string, reading: MeterReading): Promise<void> {
    await fs.promises.mkdir(folderOf(home), { recursive: true });
    await writeJson(path.join(folderOf(home), `${reading.machine}.json`), { ...reading });
}

/** Of all machines that this client has had, newest first. */
export function readings(home: string): MeterReading[] {
    const folder = folderOf(home);
    const files = fs.existsSync(folder) ? fs.readdirSync(folder).filter((name) => name.endsWith(".json")) : [];
    const all = files.map((name) => JSON.parse(fs.readFileSync(path.join(folder, name), "utf8")) as MeterReading);
    return all.sort((a, b) => b.at - a.at);
}

/** What a stack's machines have cost so far, those included that are no more; undefined where it has had none. */
export function spentBy(
    home: string,
    stack: string,
): { readonly amount: number; readonly budget?: number } | undefined {
    const own = readings(home).filter((reading) => reading.stack === stack);
    if (own[0] === undefined) return undefined;
    const { budget } = own[0];
    const amount = own.reduce((sum, reading) => sum + costOf(reading), 0);
    return budget === undefined ? { amount } : { amount, budget };
}

function folderOf(home: string): string {
    return path.join(home, "meters");
}
