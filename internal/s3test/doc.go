// Package s3test starts real S3 servers that nobody here wrote, MinIO and versitygw, for tests, and puts a proxy before
// them that counts requests, delays bytes and cuts connections.
//
//	server := s3test.MinIO(t, s3test.Options{TLS: true})
//	proxy := s3test.NewProxy(t, server)
//	bucket := server.Bucket(t)
//	... a client of proxy.URL with server.AccessKey, server.SecretKey, server.Region, server.CAFile ...
//	proxy.On(func(r s3test.Request) s3test.Fault {
//		if r.Operation() == "PUT" {
//			return s3test.DropAnswer
//		}
//		return s3test.None
//	})
//
// What a test starts is stopped and removed when the test ends, and the server's log is printed if it failed.
// Servers take about a second to start: share one among subtests, with a bucket for each.
//
// # Binaries
//
// scripts/install-s3.sh puts the programs into the cache directory of the tests, PGBAK_TEST_CACHE or /var/cache/pgbak for
// root and ~/.cache/pgbak for others. One that is missing fails the test; nothing is skipped.
//
// # Names of buckets
//
// Both servers understand path style (URL/BUCKET/KEY) and virtual host style (BUCKET.s3.localhost/KEY, see Domain). Not every resolver
// knows that *.localhost is this machine, so a client of the second kind needs a dialer of its own: DialLocal.
//
// # Files
//
// CAFile can be read by every user, as archive_command runs as the server user of package pgtest. The servers run as the user of
// the test.
//
// The package is for tests alone: nothing else may import it.
package s3test
