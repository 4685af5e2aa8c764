export const project: string;
export const lockFiles: readonly string[];
export function home(): string;
export function cache(): string;
export function pythonEnvironment(): string;
