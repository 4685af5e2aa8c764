"use strict";
require("./operation.cjs")("preview");
