// What the pinned SDK and we agree on. When these fail after an update of @pulumi/pulumi, the protocol has changed.
import * as grpc from "@grpc/grpc-js";
import * as server from "@pulumi/pulumi/automation/server.js";
import { EventsService } from "@pulumi/pulumi/proto/events_grpc_pb.js";
import { LanguageRuntimeService } from "@pulumi/pulumi/proto/language_grpc_pb.js";
import type * as plugin from "@pulumi/pulumi/proto/plugin_pb.js";
import { ResourceProviderService } from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import * as messages from "@pulumi/pulumi/proto/provider_pb.js";
import { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Rig, struct, unary, urnOf, type Provider } from "./rig";

const served = [
    ...["getPluginInfo", "getSchema", "attach", "diffConfig", "configure"],
    ...["check", "diff", "create", "read", "update", "delete", "cancel"],
];
// Components, functions, converters and parameters: this provider has none. The engine does without a handshake. Of what
// checkConfig answers it logs the secrets in clear; without it, it takes the configuration as it is.
const unimplemented = [
    "handshake",
    "checkConfig",
    "parameterize",
    "invoke",
    "call",
    "list",
    "construct",
    "getMapping",
    "getMappings",
];

let rig: Rig;
let provider: Provider;

beforeAll(async () => {
    rig = new Rig();
    provider = await rig.start();
});

afterAll(() => rig.end());

describe("the provider", () => {
    test("serves or deliberately refuses every method that there is", () => {
        expect(Object.keys(ResourceProviderService).sort()).toEqual([...served, ...unimplemented].sort());
    });

    test.each(unimplemented)("does not implement %s, and says so in the protocol's way", async (name) => {
        const method = (ResourceProviderService as Record<string, grpc.MethodDefinition<object, object>>)[name];
        if (method === undefined) throw new Error(`there is no ${name}`);
        const serialize = (): Buffer => Buffer.alloc(0);
        const deserialize = (): object => ({});
        const code = await new Promise<number>((resolve) => {
            if (method.responseStream) {
                const call = provider.client.makeServerStreamRequest(method.path, serialize, deserialize, {});
                call.on("error", (error: grpc.ServiceError) => {
                    resolve(error.code);
                });
                call.on("end", () => {
                    resolve(grpc.status.OK);
                });
                call.resume();
            } else {
                provider.client.makeUnaryRequest(method.path, serialize, deserialize, {}, (error) => {
                    resolve(error?.code ?? grpc.status.OK);
                });
            }
        });
        expect(code).toBe(grpc.status.UNIMPLEMENTED);
        expect(provider.child.exitCode).toBeNull();
    });

    test("tells its version", async () => {
        const info = await unary<plugin.PluginInfo>((done) => provider.client.getPluginInfo(new Empty(), done));
        expect(info.getVersion()).toMatch(/^\d+\.\d+\.\d+$/);
    });

    test("has previews, and takes secrets marked as such", async () => {
        const request = new messages.ConfigureRequest().setAcceptsecrets(true);
        const answer = await unary<messages.ConfigureResponse>((done) => provider.client.configure(request, done));
        expect([answer.getSupportspreview(), answer.getAcceptsecrets()]).toEqual([true, true]);
        expect([answer.getAcceptresources(), answer.getAcceptoutputs()]).toEqual([false, false]);
    });

    test("has a schema that is JSON and of its own name", async () => {
        const request = new messages.GetSchemaRequest();
        const schema = await unary<messages.GetSchemaResponse>((done) => provider.client.getSchema(request, done));
        expect(JSON.parse(schema.getSchema())).toMatchObject({ name: "finetune" });
    });

    test("has no configuration of its own that could differ", async () => {
        const diff = await unary<messages.DiffResponse>((done) =>
            provider.client.diffConfig(new messages.DiffRequest(), done),
        );
        expect([diff.getReplacesList(), diff.getDiffsList()]).toEqual([[], []]);
    });

    test("answers a defect of its own as such, and lives on", async () => {
        const request = new messages.CreateRequest().setUrn(urnOf("Dataset")).setProperties(struct({ source: 3 }));
        await expect(unary((done) => provider.client.create(request, done))).rejects.toMatchObject({
            code: grpc.status.INTERNAL,
            details: expect.stringMatching(/^this is a defect of Retune: TypeError: /) as unknown,
        });
        expect(provider.child.exitCode).toBeNull();
    });
});

describe("the SDK's own parts that we use", () => {
    test("the language server has the methods that the engine calls for an inline program", () => {
        const prototype = server.LanguageServer.prototype as object;
        const own = Object.getOwnPropertyNames(prototype).filter((name) => Object.hasOwn(LanguageRuntimeService, name));
        expect(own.sort()).toEqual(["getPluginInfo", "getRequiredPlugins", "run"]);
        expect(server.LanguageServer.length).toBe(1);
    });

    test("events arrive over a stream of one method", () => {
        expect(Object.keys(EventsService)).toEqual(["streamEvents"]);
        expect(EventsService.streamEvents).toMatchObject({ requestStream: true, responseStream: false });
    });

    test("what went wrong in an interrupted operation has these fields", () => {
        expect(Object.keys(new messages.ErrorResourceInitFailed().toObject()).sort()).toEqual(
            ["id", "inputs", "properties", "reasonsList", "refreshBeforeUpdate"].sort(),
        );
    });
});
