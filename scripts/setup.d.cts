export type SetupStep = "node-modules" | "pulumi-cli" | "python";
export interface SetupResult {
    /** The Pulumi CLI, an absolute path; undefined when its step was not asked for. */
    pulumi: string | undefined;
    /** The Python of the LLaMA-Factory environment; undefined when its step was not asked for. */
    python: string | undefined;
}
export function setup(options?: { only?: readonly SetupStep[]; log?: (line: string) => void }): Promise<SetupResult>;
