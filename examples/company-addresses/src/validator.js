// A validator: a company's rules for addresses. Mail to other companies must come from a person, not from a machine's
// address, and shows a warning when it goes to many of them at once.

/** The company's own domains: mail among them is free. */
const OWN = ['example.com', 'example.org'];

/** Addresses that no person reads. */
const MACHINES = /^(noreply|no-reply|donotreply|root|daemon|test)([+.-].*)?$/;

/** Domains that are typed wrong often. */
const MISTYPED = { 'gmial.com': 'gmail.com', 'gmail.co': 'gmail.com', 'hotmial.com': 'hotmail.com', 'outlok.com': 'outlook.com' };

/** Other companies that one message may go to without a warning. */
const MANY = 3;

export const validator = {
  describe() {
    return { text: false, html: false, raw: false };
  },

  validate({ envelope }) {
    const outside = envelope.recipients.map(split).filter(({ domain }) => !OWN.includes(domain));
    for (const { address, domain } of outside) {
      const meant = MISTYPED[domain];
      if (meant !== undefined) refuse('address', `${address}: is ${meant} meant?`, 'to');
    }
    if (outside.length > 0 && envelope.sender !== undefined) {
      const { address, local } = split(envelope.sender);
      if (MACHINES.test(local.toLowerCase())) {
        refuse('policy', `mail to other companies must come from an address that is read, not from ${address}`, 'from');
      }
    }
    const domains = new Set(outside.map(({ domain }) => domain));
    const warnings = domains.size > MANY ? [`the message goes to ${domains.size} other companies`] : [];
    return { warnings, attributes: [['audience', outside.length > 0 ? 'outside' : 'inside']] };
  },
};

/** Domains come in lower case, and as A-labels. */
function split(address) {
  const at = address.lastIndexOf('@');
  return { address, local: address.slice(0, at), domain: address.slice(at + 1) };
}

function refuse(kind, text, field) {
  throw { tag: 'refused', val: { class: kind, text, field } };
}
