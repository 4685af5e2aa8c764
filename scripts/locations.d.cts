export const project: string;
export const lockFiles: readonly string[];
/** A path as the user wrote it, who may be in another folder than npm puts us in. */
export function fromUser(file: string): string;
export function home(): string;
export function cache(): string;
export function pythonEnvironment(): string;
