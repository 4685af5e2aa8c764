/** One word for a POSIX shell, whatever is in it. */
export function quote(text: string): string {
    return `'${text.replaceAll("'", `'\\''`)}'`;
}
