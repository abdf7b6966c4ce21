// Healthy = the admin port answers with anything below 500. Says nothing about flows: the agent asks the runtime for those.
const request = require('http').get({ host: '127.0.0.1', port: process.env.PORT || 1880, path: '/', timeout: 4000 },
  answer => process.exit(answer.statusCode < 500 ? 0 : 1));
request.on('error', () => process.exit(1));
request.on('timeout', () => process.exit(1));
