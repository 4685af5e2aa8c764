export function explainFileError(error: unknown): string | undefined;
