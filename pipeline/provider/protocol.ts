import * as grpc from "@grpc/grpc-js";
import { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import { Any } from "google-protobuf/google/protobuf/any_pb.js";
import { Struct, type JavaScriptValue } from "google-protobuf/google/protobuf/struct_pb.js";
import * as plugin from "@pulumi/pulumi/proto/plugin_pb.js";
import * as service from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import * as messages from "@pulumi/pulumi/proto/provider_pb.js";
import { Status } from "@pulumi/pulumi/proto/status_pb.js";
import { explainFileError } from "../../scripts/file-errors.cjs";
import type { Change } from "../changes";
import type { JsonObject } from "../identity";
import { keepSecrets } from "../secrets";
import { UserError } from "../user-error";
import { Interrupted, type Lifecycle, type ResourceLifecycle } from "./lifecycle";
import { plain } from "./values";

/**
 * Pulumi's resource provider protocol: stages are served by one lifecycle, services, pushes and each kind of infrastructure
 * by one of their own.
 * Facts about it are in the engine's own tests.
 */
export function serveProvider(
    server: grpc.Server,
    stages: Lifecycle,
    others: (kind: string) => Promise<ResourceLifecycle>,
): void {
    const of = async (urn: string): Promise<ResourceLifecycle> => {
        const kind = /finetune:(?:infra:(\w+)|pipeline:(Service|Push))::/.exec(urn)?.slice(1).find(Boolean);
        return kind === undefined ? stages : others(kind);
    };
    const answer =
        <Request, Response>(handle: (request: Request) => Promise<Response> | Response) =>
        (call: grpc.ServerUnaryCall<Request, Response>, done: grpc.sendUnaryData<Response>): void => {
            Promise.resolve()
                .then(() => handle(call.request))
                .then(
                    (response) => {
                        done(null, response);
                    },
                    (error: unknown) => {
                        done(statusOf(error));
                    },
                );
        };

    const unimplemented = (name: string, streams: boolean): grpc.UntypedHandleCall =>
        streams
            ? (call: grpc.ServerWritableStream<unknown, unknown>) => {
                  call.emit("error", statusOf(new NotServed(name)));
              }
            : answer(() => Promise.reject(new NotServed(name)));
    const implementation: Record<string, grpc.UntypedHandleCall> = {
        getPluginInfo: answer(() => new plugin.PluginInfo().setVersion("0.1.0")),
        getSchema: answer(() =>
            new messages.GetSchemaResponse().setSchema(JSON.stringify({ name: "finetune", version: "0.1.0" })),
        ),
        attach: answer(() => new Empty()),
        // There is no checkConfig: of its answer the engine would log the secrets in clear.
        diffConfig: answer(() => new messages.DiffResponse()),
        configure: answer((request: messages.ConfigureRequest) => {
            keepSecrets(plain(json(request.getArgs())));
            return new messages.ConfigureResponse()
                .setSupportspreview(true)
                .setAcceptsecrets(true)
                .setAcceptoutputs(false);
        }),

        check: answer(async (request: messages.CheckRequest) => {
            const { inputs, failures } = await (
                await of(request.getUrn())
            ).check(request.getUrn(), json(request.getNews()), optional(request.getOlds()));
            // The property stays empty: Pulumi prints a named one with its value, secrets in clear.
            const list = failures.map((reason) => new messages.CheckFailure().setProperty("").setReason(reason));
            return new messages.CheckResponse().setInputs(struct(inputs)).setFailuresList(list);
        }),

        diff: answer(async (request: messages.DiffRequest) => {
            const lifecycle = await of(request.getUrn());
            const changes = lifecycle.diff(
                request.getUrn(),
                json(request.getOldInputs()),
                json(request.getOlds()),
                json(request.getNews()),
            );
            const response = new messages.DiffResponse().setHasdetaileddiff(true);
            const { DIFF_SOME, DIFF_NONE } = messages.DiffResponse.DiffChanges;
            response.setChanges(changes.length > 0 ? DIFF_SOME : DIFF_NONE);
            response.setDiffsList(changes.map((change) => change.field));
            for (const change of changes) response.getDetaileddiffMap().set(change.field, propertyDiff(change));
            return response;
        }),

        create: answer(async (request: messages.CreateRequest) => {
            const response = new messages.CreateResponse();
            const urn = request.getUrn();
            const lifecycle = await of(urn);
            const inputs = json(request.getProperties());
            if (request.getPreview()) {
                return response.setProperties(struct(await lifecycle.preview(urn, inputs, undefined, undefined)));
            }
            // The id never changes, not even with the key: a stage reruns in place.
            const id = urn.slice(urn.lastIndexOf("::") + 2);
            const outputs = await orInitFailure(id, inputs, () => lifecycle.apply(urn, inputs, undefined, undefined));
            return response.setId(id).setProperties(struct(outputs));
        }),

        update: answer(async (request: messages.UpdateRequest) => {
            const response = new messages.UpdateResponse();
            const urn = request.getUrn();
            const lifecycle = await of(urn);
            const inputs = json(request.getNews());
            const olds = json(request.getOlds());
            const oldInputs = json(request.getOldInputs());
            const outputs = request.getPreview()
                ? await lifecycle.preview(urn, inputs, olds, oldInputs)
                : await orInitFailure(request.getId(), inputs, () => lifecycle.apply(urn, inputs, olds, oldInputs));
            return response.setProperties(struct(outputs));
        }),

        read: answer(async (request: messages.ReadRequest) => {
            const outputs = await (
                await of(request.getUrn())
            ).read(request.getUrn(), json(request.getInputs()), json(request.getProperties()));
            return new messages.ReadResponse()
                .setId(request.getId())
                .setInputs(request.getInputs())
                .setProperties(struct(outputs));
        }),

        delete: answer(async (request: messages.DeleteRequest) => {
            const urn = request.getUrn();
            await (await of(urn)).delete(urn, json(request.getOldInputs()));
            return new Empty();
        }),

        cancel: answer(() => {
            stages.cancel();
            return new Empty();
        }),
    };
    for (const [name, { responseStream }] of Object.entries(service.ResourceProviderService)) {
        implementation[name] ??= unimplemented(name, responseStream);
    }
    server.addService(service.ResourceProviderService, implementation);
}

function propertyDiff(change: Change): messages.PropertyDiff {
    const { ADD, DELETE, UPDATE } = messages.PropertyDiff.Kind;
    const diff = new messages.PropertyDiff();
    if (change.field === "drift") return diff.setKind(UPDATE).setInputdiff(false);
    const kind = { added: ADD, removed: DELETE, changed: UPDATE }[change.kind];
    return diff.setKind(kind).setInputdiff(true);
}

class NotServed extends Error {}

function statusOf(error: unknown): Partial<grpc.StatusObject> {
    if (error instanceof NotServed) return { code: grpc.status.UNIMPLEMENTED, details: error.message };
    if (error instanceof InitFailure) return error.status;
    if (error instanceof UserError) return { code: grpc.status.UNKNOWN, details: error.message };
    const refused = explainFileError(error);
    if (refused !== undefined) return { code: grpc.status.UNKNOWN, details: refused };
    const defect = error instanceof Error ? (error.stack ?? error.message) : String(error);
    return { code: grpc.status.INTERNAL, details: `this is a defect of Retune: ${defect}` };
}

class InitFailure extends Error {
    constructor(readonly status: Partial<grpc.StatusObject>) {
        super();
    }
}

/**
 * An interrupted operation as an initialisation failure: the state keeps its inputs and gets these outputs, and the next
 * update calls `update` again, whatever diff says.
 */
async function orInitFailure(id: string, inputs: JsonObject, apply: () => Promise<JsonObject>): Promise<JsonObject> {
    try {
        return await apply();
    } catch (error) {
        if (!(error instanceof Interrupted)) throw error;
        const failure = new messages.ErrorResourceInitFailed()
            .setId(id)
            .setProperties(struct(error.outputs))
            .setInputs(struct(inputs))
            .setReasonsList([error.message]);
        const detail = new Any();
        detail.pack(failure.serializeBinary(), "pulumirpc.ErrorResourceInitFailed");
        const status = new Status().setCode(grpc.status.UNKNOWN).setMessage(error.message).setDetailsList([detail]);
        const metadata = new grpc.Metadata();
        metadata.add("grpc-status-details-bin", Buffer.from(status.serializeBinary()));
        throw new InitFailure({ code: grpc.status.UNKNOWN, details: error.message, metadata });
    }
}

function json(value: Struct | undefined): JsonObject {
    return value?.toJavaScript() ?? {};
}

function optional(value: Struct | undefined): JsonObject | undefined {
    return value === undefined ? undefined : json(value);
}

function struct(value: JsonObject): Struct {
    const defined = Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined));
    return Struct.fromJavaScript(defined as Record<string, JavaScriptValue>);
}
