/**
 * A failure that a person can do something about. The message says what happened, where, and what to do next; it is
 * shown as it is, without a stack trace. Anything else that is thrown is a defect of Retune.
 */
export class UserError extends Error {
    override readonly name = "UserError";
    /** How Pulumi's SDK knows an error that it is to show without a stack trace, as for its own RunError. */
    readonly __pulumiRunError = true;
}
