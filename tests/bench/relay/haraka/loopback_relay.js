// Whoever connects from loopback may relay, and every message goes to the sink: a fixed route, no DNS.
'use strict'

exports.register = function () {
  this.sink = this.config.get('sink.ini').main
  this.register_hook('connect', 'allow')
  this.register_hook('get_mx', 'route')
}

exports.allow = function (next, connection) {
  if (connection.remote.ip === '127.0.0.1') connection.relaying = true
  next()
}

exports.route = function (next) {
  next(OK, { priority: 0, exchange: '127.0.0.1', port: Number(this.sink.port) })
}
