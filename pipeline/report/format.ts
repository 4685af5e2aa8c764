/** A loss: two decimals, more where it is so small that two would hide it. */
export function loss(value: number): string {
    return Math.abs(value) < 0.1 && value !== 0 ? value.toPrecision(2) : value.toFixed(2);
}

/** BLEU and ROUGE, in percent. */
export function score(value: number): string {
    return value.toFixed(1);
}

export function learningRate(value: number): string {
    return value === 0 ? "0" : Number(value.toPrecision(3)).toExponential();
}

/** An amount of money, in whatever money the target's price is. */
export function money(value: number): string {
    return value.toFixed(2);
}

/** With a sign, and without one where rounding leaves nothing. */
export function difference(value: number, format: (value: number) => string): string {
    const text = format(Math.abs(value));
    if (Number(text) === 0) return text;
    return `${value < 0 ? "−" : "+"}${text}`;
}

export function bytes(value: number): string {
    const units = ["bytes", "kB", "MB", "GB", "TB"];
    // Rounded before the unit is chosen: 999,999 bytes are 1.00 MB, not 1000 kB.
    const rounded = Number(value.toPrecision(3));
    const unit = Math.min(Math.floor(Math.log10(Math.max(rounded, 1)) / 3), units.length - 1);
    const number = unit === 0 ? value.toLocaleString("en-US") : (rounded / 1000 ** unit).toPrecision(3);
    return `${number} ${units[unit] ?? ""}`;
}

/** A time in UTC, the same for everybody who gets the page, wherever they are. */
export function time(at: string): string {
    return `${at.slice(0, 16).replace("T", " ")} UTC`;
}
