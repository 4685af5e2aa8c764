"use strict";
require("./operation.cjs")("refresh");
