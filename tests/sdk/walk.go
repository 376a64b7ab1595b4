// The walk with openapi-generator for Go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/acme/pillarbox"
)

func with(key string) context.Context {
	return context.WithValue(context.Background(), pillarbox.ContextAccessToken, key)
}

func must[T any](value T, _ any, err error) T {
	if err != nil {
		var failed *pillarbox.GenericOpenAPIError
		if errors.As(err, &failed) {
			panic(string(failed.Body()))
		}
		panic(err)
	}
	return value
}

func until(probe func() bool) {
	for deadline := time.Now().Add(30 * time.Second); !probe(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			panic("waited in vain")
		}
	}
}

func main() {
	configuration := pillarbox.NewConfiguration()
	configuration.Servers[0].URL = os.Getenv("PILLARBOX_URL")
	client := pillarbox.NewAPIClient(configuration)
	platform := with(os.Getenv("PILLARBOX_KEY"))

	tenant := must(client.TenantsAPI.CreateTenant(platform).TenantCreate(*pillarbox.NewTenantCreate("Walk")).Execute())
	domain := pillarbox.NewDomainCreate("walk.example")
	domain.SetTenantId(tenant.Id)
	domain.SetVerification(pillarbox.VERIFICATION_MANUAL)
	must(client.DomainsAPI.CreateDomain(platform).DomainCreate(*domain).Execute())
	wanted := pillarbox.NewKeyCreate("web shop")
	wanted.SetTenantId(tenant.Id)
	wanted.SetEnvironment(pillarbox.ENVIRONMENT_TEST)
	wanted.SetScopes([]pillarbox.ScopeName{pillarbox.SCOPENAME_EMAILS_SEND, pillarbox.SCOPENAME_EMAILS_READ})
	key := must(client.KeysAPI.CreateKey(platform).KeyCreate(*wanted).Execute())

	own := with(key.Secret)
	to := []string{"ann@example.org", "bob@example.org"}
	email := pillarbox.NewEmailRequest()
	email.SetFrom("shop@walk.example")
	email.SetTo(pillarbox.Mailboxes{ArrayOfString: &to})
	email.SetSubject("Hello")
	email.SetText("Hello")
	sent := must(client.EmailsAPI.SendEmail(own).EmailRequest(*email).Execute())
	until(func() bool {
		return must(client.EmailsAPI.GetEmail(own, sent.Id).Execute()).Status == pillarbox.DELIVERYSTATE_DELIVERED
	})
	seen := map[string]bool{}
	for _, entry := range must(client.EmailsAPI.GetTimeline(own, sent.Id).Execute()).Data {
		seen["attempt"] = seen["attempt"] || entry.TimelineAttempt != nil
		if entry.TimelineEvent != nil {
			seen[string(entry.TimelineEvent.Type)] = true
		}
	}
	if !seen["attempt"] || !seen["message.accepted"] || !seen["message.delivered"] {
		panic(fmt.Sprint(seen))
	}
	email.SetFrom("shop@else.example")
	_, _, err := client.EmailsAPI.SendEmail(own).EmailRequest(*email).Execute()
	var refused *pillarbox.GenericOpenAPIError
	if !errors.As(err, &refused) {
		panic(err)
	}
	if model, is := refused.Model().(pillarbox.Error); !is || model.Error.Code != "domain_not_allowed_for_key" {
		panic(string(refused.Body()))
	}

	hook := pillarbox.NewWebhookCreate(os.Getenv("HOOK_URL"))
	hook.SetTenantId(tenant.Id)
	made := must(client.WebhooksAPI.CreateWebhook(platform).WebhookCreate(*hook).Execute())
	test := must(client.WebhooksAPI.TestWebhook(platform, made.Id).Execute())
	until(func() bool {
		delivery := must(client.WebhooksAPI.GetWebhookDelivery(platform, test.Id).Execute())
		return delivery.Status == pillarbox.WEBHOOKDELIVERYSTATE_DELIVERED
	})

	if !must(client.TenantsAPI.DeleteTenant(platform, tenant.Id).Execute()).Deleted {
		panic("the tenant is still there")
	}
}
