"use strict";
require("./operation.cjs")("destroy");
