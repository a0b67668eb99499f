//! Keeps an edge's DKIM keys: `posthaste:keys`, answered from the Spin variable `dkim_keys`.
