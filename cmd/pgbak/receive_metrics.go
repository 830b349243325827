package main

import (
	"maps"
	"slices"

	"github.com/pgbak/pgbak/archive"
	"github.com/pgbak/pgbak/internal/monitor"
	"github.com/pgbak/pgbak/internal/postgres"
)

// receiveFamilies tells how a receiver fares, by numbers and the names of stanza, slot
// and repositories.
func receiveFamilies(s archive.ReceiveStatus, stanza, slot string) []monitor.Family {
	var all []monitor.Family
	labels := []string{"stanza", stanza, "slot", slot}
	add := func(name, kind, help string, value float64, more ...string) {
		name = "pgbak_receive_" + name
		if len(all) == 0 || all[len(all)-1].Name != name {
			all = append(all, monitor.Family{Name: name, Kind: kind, Help: help})
		}
		f := &all[len(all)-1]
		f.Samples = append(f.Samples, monitor.Sample{Labels: slices.Concat(labels, more), Value: value})
	}
	position := func(name, help string, at postgres.LSN) {
		if at != 0 {
			add(name, "gauge", help, float64(at))
		}
	}
	add("streaming", "gauge", "1 while the server sends WAL.", zeroOrOne(s.Streaming))
	add("timeline", "gauge", "The timeline of the last stream.", float64(s.Timeline))
	position("server_lsn", "Up to where the server has WAL, by its last word, as a number of bytes.", s.Server)
	position("received_lsn", "The position behind the last byte that was written.", s.Received)
	position("flushed_lsn", "The position up to which the server was told that WAL is durable.", s.Flushed)
	position("stored_lsn", "The position behind what is in every repository without a hole.", s.Stored)
	add("lag_bytes", "gauge", "WAL that is known to be on the server and is not durable here.", float64(s.Server-min(s.Server, s.Flushed)))
	add("lag_seconds", "gauge", "How old the oldest of that is; without a stream, for how long nothing was heard at least.", s.Lag.Seconds())
	add("waiting_files", "gauge", "Complete segments and histories that are not in every repository.", float64(s.Waiting))
	add("waiting_bytes", "gauge", "The bytes of these segments.", float64(s.WaitingBytes))
	add("received_bytes_total", "counter", "WAL that came, with what came again.", float64(s.ReceivedBytes))
	add("interruptions_total", "counter", "Streams that were interrupted, and begun again.", float64(s.Interruptions))
	for _, kind := range slices.Sorted(maps.Keys(s.Errors)) {
		add("errors_total", "counter", "Errors by their kind.", float64(s.Errors[kind]), "kind", kind)
	}
	if s.LastError != "" {
		add("last_error_timestamp_seconds", "gauge", "When the last of them was.", float64(s.LastErrorAt.UnixMilli())/1000, "kind", s.LastError)
	}
	add("disk_full", "gauge", "1 while nothing is acknowledged for want of room.", zeroOrOne(s.DiskFull))
	add("disk_busy_seconds", "gauge", "For how long the disk has been at work on what it was given last.", s.DiskBusy.Seconds())
	add("remote_apply", "gauge", "1 while commits wait for this receiver to replay WAL, which it never does.", zeroOrOne(s.RemoteApply))
	for _, stored := range []struct {
		name, help string
		value      func(archive.ReceiveStored) int64
	}{
		{"stored_files_total", "WAL files put into a repository.", func(r archive.ReceiveStored) int64 { return r.Files }},
		{"stored_raw_bytes_total", "Their bytes.", func(r archive.ReceiveStored) int64 { return r.Bytes }},
		{"stored_bytes_total", "Bytes that they take there.", func(r archive.ReceiveStored) int64 { return r.StoredBytes }},
	} {
		for _, name := range slices.Sorted(maps.Keys(s.Repositories)) {
			add(stored.name, "counter", stored.help, float64(stored.value(s.Repositories[name])), "repository", name)
		}
	}
	return all
}

func zeroOrOne(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
