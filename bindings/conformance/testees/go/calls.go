package main

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"github.com/novacron/dwcp-sdk-go"
)

// arguments are those of all methods.
type arguments struct {
	ID          string            `json:"id"`
	Config      json.RawMessage   `json:"config"`
	Force       bool              `json:"force"`
	Timeout     string            `json:"timeout"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
	Filters     map[string]string `json:"filters"`
	Duration    string            `json:"duration"`
	Interval    string            `json:"interval"`
	Target      string            `json:"target"`
	Options     json.RawMessage   `json:"options"`
	Name        string            `json:"name"`
	SnapshotID  string            `json:"snapshot_id"`
	MigrationID string            `json:"migration_id"`
	Key         string            `json:"key"`
}

// strictly reads JSON whose fields all have to be known; what is absent keeps its value.
func strictly(text json.RawMessage, into any) error {
	if len(text) == 0 {
		return nil
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return wrong(err.Error())
	}
	return nil
}

// duration reads text such as 1.5s; empty text is 0.
func duration(name, text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	value, err := time.ParseDuration(text)
	if err != nil {
		return 0, wrong(name + ": " + err.Error())
	}
	return value, nil
}

func (t *testee) connect(ctx context.Context, r *request) error {
	config := dwcp.DefaultConfig()
	given := struct {
		Address         *string `json:"address"`
		Port            *int    `json:"port"`
		APIKey          *string `json:"api_key"`
		TLSEnabled      *bool   `json:"tls_enabled"`
		CAFile          *string `json:"ca_file"`
		CAPEM           *string `json:"ca_pem"`
		ClientCert      *string `json:"client_cert"`
		ClientKey       *string `json:"client_key"`
		ServerName      *string `json:"server_name"`
		ConnectTimeout  string  `json:"connect_timeout"`
		RequestTimeout  string  `json:"request_timeout"`
		RetryAttempts   *int    `json:"retry_attempts"`
		RetryBackoff    string  `json:"retry_backoff"`
		KeepAlive       *bool   `json:"keep_alive"`
		KeepAlivePeriod string  `json:"keep_alive_period"`
		MaxStreams      *int    `json:"max_streams"`
		BufferSize      *int    `json:"buffer_size"`
		PoolSize        *int    `json:"pool_size"`
	}{
		&config.Address, &config.Port, &config.APIKey, &config.TLSEnabled, &config.CAFile, &config.CAPEM,
		&config.ClientCert, &config.ClientKey, &config.ServerName, "", "", &config.RetryAttempts, "",
		&config.KeepAlive, "", &config.MaxStreams, &config.BufferSize, &config.PoolSize,
	}
	if err := strictly(r.Config, &given); err != nil {
		return err
	}
	for _, field := range []struct {
		name, text string
		into       *time.Duration
	}{
		{"connect_timeout", given.ConnectTimeout, &config.ConnectTimeout},
		{"request_timeout", given.RequestTimeout, &config.RequestTimeout},
		{"retry_backoff", given.RetryBackoff, &config.RetryBackoff},
		{"keep_alive_period", given.KeepAlivePeriod, &config.KeepAlivePeriod},
	} {
		value, err := duration(field.name, field.text)
		if err != nil {
			return err
		}
		if value != 0 {
			*field.into = value
		}
	}
	client, err := dwcp.NewClient(config)
	if err != nil {
		return err
	}
	if err := client.Connect(ctx); err != nil {
		return err
	}
	t.mu.Lock()
	before := t.clients[r.Client]
	t.clients[r.Client] = client
	t.mu.Unlock()
	if before != nil {
		return before.Disconnect()
	}
	return nil
}

// migrationOptions reads options as the protocol has them.
func migrationOptions(text json.RawMessage) (dwcp.MigrationOptions, error) {
	o, timeout := dwcp.DefaultMigrationOptions(), ""
	given := struct {
		Live             *bool   `json:"live"`
		Offline          *bool   `json:"offline"`
		MaxDowntime      *int    `json:"max_downtime"`
		Bandwidth        *uint64 `json:"bandwidth"`
		Compression      *bool   `json:"compression"`
		AutoConverge     *bool   `json:"auto_converge"`
		PostCopy         *bool   `json:"post_copy"`
		Parallel         *int    `json:"parallel"`
		VerifyChecksum   *bool   `json:"verify_checksum"`
		EncryptTransport *bool   `json:"encrypt_transport"`
		Timeout          *string `json:"timeout"`
		OnTimeout        *string `json:"on_timeout"`
		WithDisks        *bool   `json:"with_disks"`
		SameHost         *string `json:"same_host"`
	}{
		&o.Live, &o.Offline, &o.MaxDowntime, &o.Bandwidth, &o.Compression, &o.AutoConverge, &o.PostCopy, &o.Parallel,
		&o.VerifyChecksum, &o.EncryptTransport, &timeout, &o.OnTimeout, &o.WithDisks, &o.SameHost,
	}
	if err := strictly(text, &given); err != nil {
		return o, err
	}
	var err error
	o.Timeout, err = duration("timeout", timeout)
	return o, err
}

func call(ctx context.Context, client *dwcp.Client, method string, a *arguments) (any, error) {
	vms := client.VM()
	switch method {
	case "create":
		var config dwcp.VMConfig
		if err := strictly(a.Config, &config); err != nil {
			return nil, err
		}
		return vms.CreateWithKey(ctx, config, a.Key)
	case "start":
		return nil, vms.Start(ctx, a.ID)
	case "stop":
		timeout, err := duration("timeout", a.Timeout)
		if err != nil {
			return nil, err
		}
		if timeout != 0 && !a.Force {
			return nil, vms.StopWithin(ctx, a.ID, timeout)
		}
		return nil, vms.Stop(ctx, a.ID, a.Force)
	case "destroy":
		return nil, vms.Destroy(ctx, a.ID)
	case "pause":
		return nil, vms.Pause(ctx, a.ID)
	case "resume":
		return nil, vms.Resume(ctx, a.ID)
	case "reset":
		return nil, vms.Reset(ctx, a.ID)
	case "update":
		return vms.Update(ctx, a.ID, a.Labels, a.Annotations)
	case "get":
		return vms.Get(ctx, a.ID)
	case "list":
		return vms.List(ctx, a.Filters)
	case "get_metrics":
		return vms.GetMetrics(ctx, a.ID, a.Duration)
	case "guest_report":
		return vms.GuestReport(ctx, a.ID)
	case "verify":
		return vms.Verify(ctx, a.ID)
	case "migrate", "plan_migration":
		options, err := migrationOptions(a.Options)
		if err != nil {
			return nil, err
		}
		if method == "migrate" {
			return vms.MigrateWithKey(ctx, a.ID, a.Target, options, a.Key)
		}
		return vms.PlanMigration(ctx, a.ID, a.Target, options)
	case "get_migration_status":
		return vms.GetMigrationStatus(ctx, a.MigrationID)
	case "cancel_migration":
		return vms.CancelMigration(ctx, a.MigrationID)
	case "list_migrations":
		return vms.ListMigrations(ctx)
	case "resolve_migration":
		return vms.ResolveMigration(ctx, a.MigrationID, a.Force)
	case "snapshot":
		options := dwcp.DefaultSnapshotOptions()
		if err := strictly(a.Options, &options); err != nil {
			return nil, err
		}
		return vms.SnapshotWithKey(ctx, a.ID, a.Name, options, a.Key)
	case "list_snapshots":
		return vms.ListSnapshots(ctx, a.ID)
	case "restore_snapshot":
		return nil, vms.RestoreSnapshot(ctx, a.ID, a.SnapshotID)
	case "delete_snapshot":
		return nil, vms.DeleteSnapshot(ctx, a.SnapshotID)
	case "health":
		return client.Health(ctx)
	case "node":
		return client.Node(ctx)
	}
	return nil, unsupported("method " + method)
}
