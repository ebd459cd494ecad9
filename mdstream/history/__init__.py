"""History: the past, fetched over REST by all cores and kept in a store on disk.

request ─► shards ─► pages ══ workers: staged columns ══► joined files ─► Delta tables ─► scan
             ▲         │
             └ ledger ◄┘   what was requested, fetched, staged and stored: survives every kill
"""
