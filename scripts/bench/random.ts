/** A seeded source of numbers from 0 to 1 (mulberry32): the same ones in every run, on every machine. */
export function randomNumbers(seed: number): () => number {
    let state = seed;
    return () => {
        state = (state + 0x6d2b79f5) | 0;
        let mixed = Math.imul(state ^ (state >>> 15), state | 1);
        mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
        return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
    };
}

/** Bytes that no file system can store in less room. */
export function randomBytes(count: number, seed: number): Uint8Array {
    const next = randomNumbers(seed);
    const words = new Uint32Array(Math.ceil(count / 4));
    for (let index = 0; index < words.length; index += 1) words[index] = next() * 2 ** 32;
    return new Uint8Array(words.buffer, 0, count);
}
