import * as net from "node:net";

/** A TCP link to a port of this machine that can be cut, or frozen. */
export class Link {
    private readonly server = net.createServer((client) => {
        this.join(client);
    });
    private readonly sockets = new Set<net.Socket>();
    private frozen = false;
    /** How often it was cut. */
    cuts = 0;

    private constructor(
        private readonly to: number,
        /** Bytes in both directions after which a connection is cut; 0 for never. */
        private cutEvery: number,
    ) {}

    static async to(port: number, options: { readonly cutEvery?: number } = {}): Promise<Link> {
        const link = new Link(port, options.cutEvery ?? 0);
        await new Promise<void>((resolve) => link.server.listen(0, "127.0.0.1", resolve));
        return link;
    }

    get port(): number {
        return (this.server.address() as net.AddressInfo).port;
    }

    /** From now on connections last for so many bytes; 0 for ever. */
    cutAfter(bytes: number): void {
        this.cutEvery = bytes;
    }

    /** Ends all connections, without a word to either side's program. */
    cut(): void {
        this.cuts += 1;
        for (const socket of this.sockets) socket.destroy();
    }

    /** Nothing goes through any more, and nobody is told. */
    freeze(): void {
        this.frozen = true;
        for (const socket of this.sockets) socket.pause();
    }

    thaw(): void {
        this.frozen = false;
        for (const socket of this.sockets) socket.resume();
    }

    async dispose(): Promise<void> {
        for (const socket of this.sockets) socket.destroy();
        await new Promise((resolve) => this.server.close(resolve));
    }

    private join(client: net.Socket): void {
        const host = net.connect(this.to, "127.0.0.1");
        let passed = 0;
        const end = (): void => {
            client.destroy();
            host.destroy();
        };
        for (const [from, into] of [
            [client, host],
            [host, client],
        ] as const) {
            this.sockets.add(from);
            if (this.frozen) from.pause();
            from.on("data", (block: Buffer) => {
                const left = this.cutEvery === 0 ? Infinity : Math.max(0, this.cutEvery - passed);
                const part = block.subarray(0, left);
                passed += block.length;
                if (!into.write(part)) {
                    from.pause();
                    into.once("drain", () => {
                        if (!this.frozen) from.resume();
                    });
                }
                if (block.length >= left) {
                    this.cuts += 1;
                    into.end();
                    end();
                }
            });
            from.on("error", end);
            from.on("close", () => {
                this.sockets.delete(from);
                end();
            });
        }
    }
}
