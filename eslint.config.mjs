import tseslint from "typescript-eslint";

const sdkIndex = {
    name: "@pulumi/pulumi",
    message:
        "Importing the SDK's index loads the TypeScript compiler (400 ms): import the module, such as @pulumi/pulumi/resource.js. Types are free.",
    allowTypeImports: true,
};

export default tseslint.config(
    { ignores: ["node_modules/"] },
    {
        files: ["**/*.ts", "**/*.mts"],
        extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
        languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
        rules: {
            "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
            "@typescript-eslint/no-restricted-imports": ["error", { paths: [sdkIndex] }],
            "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
            "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
            "@typescript-eslint/no-unused-vars": ["error", { varsIgnorePattern: "^_", argsIgnorePattern: "^_" }],
            "eqeqeq": "error",
        },
    },
);
