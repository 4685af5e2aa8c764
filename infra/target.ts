import { group, oneOf } from "../pipeline/fields";
import type { z } from "zod";

/** Where stages run. It is an input of each stage, but never part of a stage's identity: moving reruns nothing. */
export const targetFields = { type: oneOf(["local"]) };

export const targetSchema = group(targetFields, "a target such as { type: local }");

export type Target = z.infer<typeof targetSchema>;
