// A validator: refuses recipients at one domain, and warns of mail without a subject.

/** Where no mail may go. */
const BLOCKED_DOMAIN = 'blocked.example';

export const validator = {
  /** Header, parts and envelope are always there; text, HTML and the raw message cost time and are asked for here. */
  describe() {
    return { text: false, html: false, raw: false };
  },

  validate(input) {
    const address = input.envelope.recipients.find((recipient) => recipient.endsWith(`@${BLOCKED_DOMAIN}`));
    if (address !== undefined) {
      throw {
        tag: 'refused',
        val: { class: 'policy', text: `no mail goes to ${BLOCKED_DOMAIN}: remove ${address}`, field: 'to' },
      };
    }
    const hasSubject = input.headers.some((header) => header.name.toLowerCase() === 'subject');
    return { warnings: hasSubject ? [] : ['the message has no subject'], attributes: [] };
  },
};
