"use strict";
require("./operation.cjs")("up");
