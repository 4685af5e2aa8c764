/** What counts as likely personal data, by name. */
export const PERSONAL = ["mobileNumbers", "identityNumbers", "emailAddresses"] as const;
export type Personal = (typeof PERSONAL)[number];

const patterns: Readonly<Record<Personal, RegExp>> = {
    // Mainland China: 11 digits that begin with 13 to 19, in one go or in groups of 3, 4 and 4.
    mobileNumbers: /(?<!\d)(?:\+?86[- ]?)?1[3-9]\d([- ]?)\d{4}\1\d{4}(?!\d)/g,
    // Resident identity numbers: region, date of birth, sequence, check digit.
    identityNumbers: /(?<![\dA-Za-z])[1-9]\d{16}[\dXx](?![\dA-Za-z])/g,
    emailAddresses: /[A-Za-z0-9][A-Za-z0-9._%+-]{0,63}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![A-Za-z0-9])/g,
};

/** What of a text is likely personal data, masked; nothing where there is none. */
export function personalData(text: string): { readonly kind: Personal; readonly masked: string }[] {
    const plain = text.normalize("NFKC");
    return PERSONAL.flatMap((kind) =>
        [...plain.matchAll(patterns[kind])]
            .filter(([found]) => kind !== "identityNumbers" || isIdentityNumber(found))
            .map(([found]) => ({ kind, masked: masks[kind](found) })),
    );
}

/** A text in which likely personal data cannot be read any more. */
export function withoutPersonalData(text: string): string {
    const plain = text.normalize("NFKC");
    const masked = PERSONAL.reduce((rest, kind) => rest.replace(patterns[kind], masks[kind]), plain);
    return masked === plain ? text : masked;
}

const masks: Readonly<Record<Personal, (found: string) => string>> = {
    mobileNumbers: (found) => `${found.slice(0, 3)}${"*".repeat(found.length - 5)}${found.slice(-2)}`,
    identityNumbers: (found) => `${found.slice(0, 3)}${"*".repeat(found.length - 3)}`,
    emailAddresses: (found) => `${found.slice(0, 1)}***@***${found.slice(found.lastIndexOf("."))}`,
};

const weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2];

/** Whether the check digit (ISO 7064, modulus 11-2) and the date of birth are right: not any 18 digits are a number. */
function isIdentityNumber(text: string): boolean {
    const [, year = "", month = "", day = ""] = /^\d{6}(\d{4})(\d\d)(\d\d)/.exec(text) ?? [];
    if (year < "1900" || year > "2099" || month < "01" || month > "12" || day < "01" || day > "31") return false;
    const sum = weights.reduce((total, weight, at) => total + weight * Number(text[at]), 0);
    return "10X98765432"[sum % 11] === text[17]?.toUpperCase();
}
