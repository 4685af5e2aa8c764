import { group, oneOf, text } from "../pipeline/fields";
import type { z } from "zod";

/** Where stages run. It is an input of each stage, but never part of a stage's identity: moving reruns nothing. */
export const targetFields = {
    type: oneOf(["local"]),
    /** A copy of the store on any remote that rclone knows: what is there is taken instead of run again. */
    mirror: text("an rclone remote such as s3:bucket/prefix").optional(),
};

export const targetSchema = group(targetFields, "a target such as { type: local }");

export type Target = z.infer<typeof targetSchema>;
