// What is measured in a process of its own: node scripts/bench/task.cjs TASK ARGUMENT…
"use strict";
require("../ts.cjs");
require("./task.ts");
