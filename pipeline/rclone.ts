/**
 * Why rclone failed, by the last thing that it says: in one line, without the time, and without the numbers that stores add
 * on lines of their own.
 */
export function failureOf(stderr: string): string {
    const last = stderr.split(/^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d /m).at(-1) ?? "";
    return last
        .trim()
        .replace(/^[A-Z]+ *: /, "")
        .replace(/^Failed to \w+(?: with \d+ errors: last error was)?: (?:error in ListJSON: )?/, "")
        .replace(/\n\tstatus code: [^]*$/, "")
        .replace(/^RequestError: send request failed\ncaused by: \w+ "[^"]*": /, "")
        .replace(/\s+/g, " ");
}
