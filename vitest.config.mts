import { defineConfig } from "vitest/config";

export default defineConfig({
    test: {
        projects: [
            { test: { name: "unit", include: ["test/unit/**/*.test.ts"], testTimeout: 20_000 } },
            { test: { name: "provider", include: ["test/provider/**/*.test.ts"], testTimeout: 60_000 } },
            // Two cores and real training: one file at a time.
            {
                test: {
                    name: "engine",
                    include: ["test/engine/**/*.test.ts"],
                    globalSetup: ["test/engine/runtime.ts"],
                    testTimeout: 600_000,
                    hookTimeout: 600_000,
                    fileParallelism: false,
                },
            },
            {
                test: {
                    name: "host",
                    include: ["test/host/**/*.test.ts"],
                    globalSetup: ["test/engine/runtime.ts"],
                    testTimeout: 600_000,
                    hookTimeout: 600_000,
                    fileParallelism: false,
                },
            },
            {
                test: {
                    name: "aws",
                    include: ["test/aws/**/*.test.ts"],
                    globalSetup: ["test/engine/runtime.ts"],
                    testTimeout: 600_000,
                    hookTimeout: 600_000,
                    fileParallelism: false,
                },
            },
        ],
    },
});
