import type { Request } from "./request";

export function urlDownload(url: string): Request {
    // The query may hold a signature.
    const { host, pathname } = new URL(url);
    return {
        url,
        subject: `${host}${pathname}`,
        help: {
            denied: "Check the address; one that was signed may have expired.",
            unreachable: "Check the address and the network, or fetch the file elsewhere and use `{ file: … }`.",
        },
    };
}

/** The file name that a URL ends with. */
export function urlName(url: string): string {
    const name = new URL(url).pathname.split("/").at(-1) ?? "";
    return decodeURIComponent(name).replace(/[/\\]/g, "_") || "data";
}
