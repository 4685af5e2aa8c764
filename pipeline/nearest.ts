import { distance } from "fastest-levenshtein";

/**
 * The candidate that was most likely meant, ignoring case; none where even the nearest one differs in more than a third
 * of the word, because a far-fetched suggestion is worse than none.
 */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
    const wanted = word.toLowerCase();
    let best: string | undefined;
    // A word of one letter is one edit away from every other: it must not lose all of itself.
    let limit = Math.min(Math.max(1, Math.floor(wanted.length / 3)), wanted.length - 1);
    for (const candidate of candidates) {
        const edits = distance(wanted, candidate.toLowerCase());
        if (edits <= limit) {
            best = candidate;
            limit = edits - 1;
        }
    }
    return best;
}
