// The plain-Node twin of pipeline/user-error.ts: set-up runs before TypeScript can be loaded.
"use strict";

class UserError extends Error {
    name = "UserError";
}

module.exports = { UserError };
